// A js-libp2p host with the transports of the swarm: TCP, noise, yamux.

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'

if (Promise.withResolvers === undefined) { // Node 20; the libraries are written for 22
  Promise.withResolvers = function () {
    const all = {}
    all.promise = new Promise((resolve, reject) => Object.assign(all, { resolve, reject }))
    return all
  }
}
const { createLibp2p } = await import('libp2p')

/** Start a host that does not listen: it dials, and everything else goes over that connection. */
export async function openHost (seed, services = {}) {
  return createLibp2p({
    privateKey: await generateKeyPairFromSeed('Ed25519', seed),
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify({ runOnConnectionOpen: false }), ...services }
  })
}

export const say = line => process.stdout.write(JSON.stringify(line) + '\n')
