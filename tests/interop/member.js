// A member of a swarm: joins its topic, checks every record, and does what it is told, one JSON
// object a line on stdin; answers and news go to stdout in the same form.
//
//   node member.js '{"seed": hex, "swarm": hex, "address": multiaddr}'

import { createInterface } from 'node:readline'
import { gossipsub } from '@libp2p/gossipsub'
import { multiaddr } from '@multiformats/multiaddr'
import { openHost, say } from './host.js'
import * as wire from './wire.js'

const { seed, swarm, address } = JSON.parse(process.argv[2])
const topic = `/lazaretto/records/1/${swarm}`
const host = await openHost(Buffer.from(seed, 'hex'), {
  pubsub: gossipsub({ globalSignaturePolicy: 'StrictSign', allowPublishToZeroTopicPeers: true })
})
const pubsub = host.services.pubsub
const key = host.peerId.publicKey.raw

function told (record) {
  const { id, author, seq, kind } = record
  const hex = bytes => Buffer.from(bytes).toString('hex')
  return { id: hex(id), author: hex(author), seq: Number(seq), kind }
}

pubsub.addEventListener('message', ({ detail }) => {
  try {
    say({ news: told(wire.openRecord(detail.data)) })
  } catch (error) {
    say({ news: null, refused: wire.reason(error) })
  }
})

await host.handle(wire.ALIVE, async stream => {
  const frames = new wire.Frames(stream)
  await frames.read(16)
  await frames.write(Buffer.from([1]))
  await stream.close()
})

const commands = {
  async pull ({ connection }) {
    const feeds = await wire.pullFeeds(connection)
    return Object.values(feeds).flat().map(told)
  },

  async blob ({ connection, digest, offset }) {
    const wanted = Buffer.from(digest, 'hex')
    const whole = await wire.fetchBlob(connection, wanted)
    const tail = await wire.fetchBlob(connection, wanted, offset)
    return {
      size: whole.length,
      right: wire.sha256(whole).equals(wanted),
      tail: tail.equals(whole.subarray(offset))
    }
  },

  /** Sign a record of our own and announce it. */
  async publish ({ seq, prev, epoch, payload }) {
    const bytes = wire.sealRecord(Buffer.from(seed, 'hex'), {
      v: 1,
      swarm: Buffer.from(swarm, 'hex'),
      kind: 'open',
      author: key,
      seq,
      prev: prev && Buffer.from(prev, 'hex'),
      epoch,
      refs: [],
      epoch_id: Buffer.alloc(32),
      day: 20_000,
      payload: { seal: Buffer.from(payload, 'hex'), fold_nonce: Buffer.alloc(32) }
    })
    await pubsub.publish(topic, bytes)
    return told(wire.openRecord(bytes))
  }
}

const connection = await host.dial(multiaddr(address))
pubsub.subscribe(topic)
const joined = setInterval(() => {
  if (pubsub.getMeshPeers(topic).length === 0) return
  clearInterval(joined)
  say({ joined: host.peerId.toString() })
}, 50)

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...args } = JSON.parse(line)
  try {
    say({ id, answer: await commands[command]({ connection, ...args }) })
  } catch (error) {
    say({ id, error: wire.reason(error) })
  }
}
await host.stop()
process.exit(0)
