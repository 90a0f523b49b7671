// What a hostile peer that shares no code with its victim sends, to every protocol it offers.
//
//   node attacker.js '{"address": multiaddr, "swarm": hex, "seeds": [hex, ...], "record": hex}'
//
// Each protocol is attacked under a key of its own: the victim refuses a key after a while. Prints
// one JSON object per protocol: what was tried, and how the victim took it. Stays connected until
// stdin has something to say, so that a busy victim gets to read it all.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { multiaddr } from '@multiformats/multiaddr'
import { openHost, say } from './host.js'
import * as wire from './wire.js'

const { address, swarm, seeds, record } = JSON.parse(process.argv[2])
const topic = `/lazaretto/records/1/${swarm}`
const real = Buffer.from(record, 'hex')
const MiB = 1024 * 1024
const MANY = { maxOutboundStreams: 1000 } // our own limit must not spare the victim

// -- protobuf by hand: what no library would write ---------------------------------------------

function varint (number) {
  const bytes = []
  for (; number > 127; number = Math.floor(number / 128)) bytes.push(number % 128 | 128)
  return Buffer.from([...bytes, number])
}
const field = (number, data) => Buffer.concat([varint(number << 3 | 2), varint(data.length), data])
const prefixed = data => Buffer.concat([varint(data.length), data])
const publish = (...messages) => prefixed(Buffer.concat(messages.map(one => field(2, one))))

/** A pubsub message, signed by ``host`` as the protocol asks, with some fields replaced. */
async function message (host, data, changes = {}) {
  const from = host.peerId.toMultihash().bytes
  const fields = { 1: from, 2: data, 3: randomBytes(8), 4: Buffer.from(topic), ...changes }
  const body = Buffer.concat([1, 2, 3, 4].map(number => field(number, Buffer.from(fields[number]))))
  const signed = Buffer.concat([Buffer.from('libp2p-pubsub:'), body])
  const signature = changes[5] ?? await host.services.identity.sign(signed)
  const key = changes[6] ? [field(6, changes[6])] : []
  return Buffer.concat([body, field(5, Buffer.from(signature)), ...key])
}

function flipped (at) {
  const bytes = Buffer.from(real)
  bytes[at < 0 ? bytes.length + at : at] ^= 1
  return bytes
}

const anybody = Buffer.concat([Buffer.from('002408011220', 'hex'), randomBytes(32)])
const GOSSIP = {
  'no protobuf': () => prefixed(Buffer.alloc(100, 255)),
  'a truncated protobuf': async host => prefixed((await message(host, real)).subarray(0, -7)),
  'a truncated frame': async host => publish(await message(host, real)).subarray(0, -7),
  'a frame of 2 MiB': () => Buffer.concat([varint(2 * MiB), Buffer.alloc(2 * MiB)]),
  'a length without end': () => Buffer.alloc(64, 255),
  'a key that is none': async host => publish(await message(host, real, { 6: Buffer.from([255]) })),
  "somebody else's name": async host => publish(await message(host, real, { 1: anybody })),
  'a key of low order': async host => publish(await message(host, real, {
    1: Buffer.concat([Buffer.from('002408011220', 'hex'), Buffer.alloc(32)]), 5: Buffer.alloc(64)
  })),
  'a wrong signature': async host => publish(await message(host, real, { 5: Buffer.alloc(64) })),
  'another topic': async host => publish(await message(host, real, { 4: Buffer.from('other') })),
  '1000 messages at once': async host => publish(...Array(1000).fill(await message(host, real)))
}
const RECORDS = { // well-formed gossip, whose content no honest peer hands on
  'an empty record': () => Buffer.alloc(0),
  'noise as a record': () => randomBytes(300),
  'a record with another signature': () => flipped(3),
  'a record with another body': () => flipped(-1),
  'a record with something behind it': () => Buffer.concat([real, Buffer.alloc(1)]),
  'a record cut short': () => real.subarray(0, -1),
  'a record of 100 kB': () => Buffer.concat([real, Buffer.alloc(100_000)])
}
const FRAMES = {
  nothing: () => Buffer.alloc(0),
  'half a length': () => Buffer.from([0, 0]),
  'a frame of 4 GiB': () => wire.frame(Buffer.alloc(0), 0xffffffff),
  'a truncated frame': () => wire.frame(Buffer.alloc(10), 48),
  'an oversized frame': () => wire.frame(Buffer.alloc(MiB)),
  '100 empty frames': () => Buffer.alloc(400),
  'a frame of noise': () => wire.frame(randomBytes(48)),
  noise: () => randomBytes(1000)
}

// -- trying it -----------------------------------------------------------------------------------

const soon = (promise, ms) => Promise.race([
  promise, new Promise(resolve => setTimeout(resolve, ms, 'held open').unref())
])

/** Send ``bytes`` on a new stream and say how the victim took it. */
async function hurl (connection, protocol, bytes) {
  try {
    const stream = await connection.newStream(protocol, MANY)
    const taken = (async () => {
      let size = 0
      for await (const part of stream) size += part.byteLength
      return size > 0 ? `answered ${size} bytes` : 'closed'
    })()
    taken.catch(() => {})
    stream.send(bytes)
    await stream.close()
    return await soon(taken, 500)
  } catch (error) {
    return wire.reason(error)
  }
}

const hosts = []

async function attack (seed, protocol, tries) {
  const host = await openHost(Buffer.from(seed, 'hex'), {
    identity: components => ({ sign: data => components.privateKey.sign(data) })
  })
  hosts.push(host)
  const outcomes = {}
  for (const [name, make] of Object.entries(tries)) {
    try { // a victim that has cut us off is dialled again
      const connection = await host.dial(multiaddr(address))
      outcomes[name] = await hurl(connection, protocol, await make(host))
    } catch (error) {
      outcomes[name] = wire.reason(error)
    }
  }
  const connection = await host.dial(multiaddr(address)).catch(() => null)
  for (let left = 40; left > 0 && connection !== null; left--) { // never closed
    connection.newStream(protocol, MANY).then(stream => stream.send(Buffer.alloc(3))).catch(() => {})
  }
  say({ protocol, key: Buffer.from(host.peerId.publicKey.raw).toString('hex'), outcomes })
}

const batch = Buffer.concat([Buffer.from([1, 0, 1]), wire.frame(flipped(-1))])
const ANSWERS = {
  'a record with another body': wire.frame(batch),
  'a frame of 4 GiB': wire.frame(Buffer.alloc(0), 0xffffffff),
  noise: randomBytes(5000)
}

/** The pull that a victim begins as soon as we are connected is answered with garbage. */
async function answerWithGarbage (seed, name) {
  const host = await openHost(Buffer.from(seed, 'hex'))
  hosts.push(host)
  const asked = new Promise(resolve => host.handle(wire.SYNC, async stream => {
    stream.send(ANSWERS[name])
    await stream.close()
    resolve('asked')
  }))
  await host.dial(multiaddr(address))
  const key = Buffer.from(host.peerId.publicKey.raw).toString('hex')
  say({ protocol: 'as a server', key, outcomes: { [name]: await soon(asked, 30_000) } })
}

const scout = await openHost(Buffer.from(seeds[0], 'hex'))
const connection = await scout.dial(multiaddr(address))
const { protocols } = await scout.services.identify.identify(connection)
await scout.stop()
say({ protocols })

const left = seeds.slice(1)
const targets = [
  ...protocols.map(protocol => [protocol, protocol.startsWith('/meshsub/') ? GOSSIP : FRAMES]),
  ...Object.entries(RECORDS).map(([name, make]) => [
    wire.GOSSIP, { [name]: async host => publish(await message(host, make())) }
  ])
]
await Promise.all(Object.keys(ANSWERS).map(name => answerWithGarbage(left.pop(), name)))
await Promise.all(targets.map(([protocol, tries]) => attack(left.pop(), protocol, tries)))
say({ done: true })
await once(process.stdin, 'data')
await Promise.all(hosts.map(host => host.stop()))
process.exit(0)
