// The swarm's formats as docs/ and the Python modules describe them, written anew with other
// libraries: node:crypto for Ed25519 and SHA-256, @msgpack/msgpack for bodies.

import { createHash, createPrivateKey, createPublicKey, sign, verify } from 'node:crypto'
import { decode, encode } from '@msgpack/msgpack'

export const GOSSIP = '/meshsub/1.1.0'
export const SYNC = '/lazaretto/sync/1'
export const BLOB = '/lazaretto/blob/1'
export const ALIVE = '/lazaretto/alive/1'

const PAYLOAD_TYPE = 'application/vnd.lazaretto.record.v1+msgpack'
const SIGNATURE_SIZE = 64
const RAW_PUBLIC = Buffer.from('302a300506032b6570032100', 'hex') // what DER puts before the key
const RAW_SEED = Buffer.from('302e020100300506032b657004220420', 'hex')
const MSGPACK = { useBigInt64: true, sortKeys: true }

export const sha256 = data => createHash('sha256').update(data).digest()

/** The text of an error for a report: one line, no stack. */
export const reason = error => String(error?.message ?? error).slice(0, 200)

/** What is signed: the pre-authentication encoding of DSSE v1. */
export function pae (body) {
  return Buffer.concat([
    Buffer.from(`DSSEv1 ${PAYLOAD_TYPE.length} ${PAYLOAD_TYPE} ${body.length} `), body
  ])
}

/** Check one record (64 bytes of signature, then the body); throws if anything is wrong. */
export function openRecord (bytes) {
  const signature = bytes.subarray(0, SIGNATURE_SIZE)
  const body = Buffer.from(bytes.subarray(SIGNATURE_SIZE))
  const envelope = decode(body, MSGPACK)
  if (Buffer.compare(Buffer.from(encode(envelope, MSGPACK)), body) !== 0) {
    throw new Error('not in canonical form')
  }
  const der = Buffer.concat([RAW_PUBLIC, envelope.author])
  const key = createPublicKey({ key: der, format: 'der', type: 'spki' })
  if (!verify(null, pae(body), key, signature)) throw new Error('the signature does not verify')
  return { id: sha256(pae(body)), ...envelope }
}

/** Sign an envelope with a 32-byte seed; returns the bytes that travel. */
export function sealRecord (seed, envelope) {
  const der = Buffer.concat([RAW_SEED, seed])
  const key = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
  const body = Buffer.from(encode(envelope, MSGPACK))
  return Buffer.concat([sign(null, pae(body), key), body])
}

export function frame (data, announced = data.length) {
  const head = Buffer.alloc(4)
  head.writeUInt32BE(announced)
  return Buffer.concat([head, data])
}

/** Frames on a stream: a big-endian u32 length, then that many bytes. */
export class Frames {
  constructor (stream) {
    this.stream = stream
    this.chunks = stream[Symbol.asyncIterator]()
    this.buffer = Buffer.alloc(0)
  }

  async #take (size) {
    const parts = [this.buffer]
    for (let held = this.buffer.length; held < size;) {
      const { value, done } = await this.chunks.next()
      if (done) throw new Error('the stream ended within a frame')
      const part = Buffer.from(value.subarray())
      parts.push(part)
      held += part.length
    }
    const all = Buffer.concat(parts)
    this.buffer = all.subarray(size)
    return all.subarray(0, size)
  }

  async read (max) {
    const size = (await this.#take(4)).readUInt32BE()
    if (size > max) throw new Error(`a frame of ${size} bytes`)
    return this.#take(size)
  }

  async write (data) {
    if (!this.stream.send(frame(data))) await this.stream.onDrain()
  }
}

/** All records that the peer holds: author (hex) -> records in feed order, each one checked. */
export async function pullFeeds (connection) {
  const stream = await connection.newStream(SYNC)
  const frames = new Frames(stream)
  await frames.write(Buffer.concat([Buffer.alloc(32), Buffer.alloc(32, 255), Buffer.alloc(2)]))
  const feeds = {}
  for (;;) {
    const data = await frames.read(400_000)
    if (data[0] !== 1) {
      if (data[0] !== 2) throw new Error('the response is full')
      break
    }
    let at = 3
    for (let left = data.readUInt16BE(1); left > 0; left--) {
      const size = data.readUInt32BE(at)
      append(feeds, openRecord(data.subarray(at + 4, at + 4 + size)))
      at += 4 + size
    }
    if (at !== data.length) throw new Error('a batch with something behind it')
  }
  await stream.close()
  return feeds
}

function append (feeds, record) {
  const feed = feeds[Buffer.from(record.author).toString('hex')] ??= []
  const last = feed.at(-1)
  if (Number(record.seq) !== feed.length) throw new Error('a feed with a gap')
  const linked = last === undefined ? record.prev === null : last.id.equals(record.prev)
  if (!linked) throw new Error('a feed whose chain is broken')
  feed.push(record)
}

/** A blob's bytes from an offset to its end. */
export async function fetchBlob (connection, digest, offset = 0) {
  const request = Buffer.alloc(48)
  digest.copy(request)
  request.writeBigUInt64BE(BigInt(offset), 32)
  request.writeBigUInt64BE(1n << 32n, 40)
  const stream = await connection.newStream(BLOB)
  const frames = new Frames(stream)
  await frames.write(request)
  const answer = await frames.read(9)
  if (answer[0] !== 0) throw new Error(`blob status ${answer[0]}`)
  const parts = []
  let left = Number(answer.readBigUInt64BE(1)) - offset
  while (left > 0) {
    const part = await frames.read(256 * 1024)
    parts.push(part)
    left -= part.length
  }
  await stream.close()
  if (left < 0) throw new Error('more than was announced')
  return Buffer.concat(parts)
}
