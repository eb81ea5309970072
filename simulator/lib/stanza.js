/** Small readers and makers of binary nodes. */
import { decodeDecompressedBinaryNode, encodeBinaryNode, getBinaryNodeChild } from 'baileys'
import * as constants from 'baileys/lib/WABinary/constants.js'
import { randomBytes } from 'node:crypto'
import { inflateSync } from 'node:zlib'

/** @typedef {import('baileys').BinaryNode} Node */

export const SERVER = '@s.whatsapp.net' // an address without a user
const COMPRESSED = 2
const LARGE_BYTES = 16 * 1024
const MARKER_BYTES = 24
const BINARY_8_HEAD = [constants.TAGS.BINARY_8, MARKER_BYTES] // how the encoder introduces a marker
const { BINARY_32 } = constants.TAGS

/** @param {string} tag @param {Record<string, string | undefined>} [attrs] @param {Node['content']} [content] @returns {Node} */
export function node(tag, attrs = {}, content) {
  const given = Object.fromEntries(Object.entries(attrs).filter(([, value]) => value !== undefined))
  return { tag, attrs: /** @type {Record<string, string>} */ (given), content }
}

/** @param {Node | undefined} parent @param {string} tag */
export function child(parent, tag) {
  return parent && getBinaryNodeChild(parent, tag)
}

/** @param {Node | undefined} parent @returns {Node[]} */
export function children(parent) {
  return Array.isArray(parent?.content) ? parent.content : []
}

/** @param {Node | undefined} element @returns {Buffer} its bytes, empty if it has none */
export function bytesOf(element) {
  return element?.content instanceof Uint8Array || typeof element?.content === 'string' ? Buffer.from(element.content) : Buffer.alloc(0)
}

/** @param {Node} element */
export function encode(element) {
  /** @type {Map<Buffer, Uint8Array>} */
  const large = new Map()
  const encoded = encodeBinaryNode(withMarkers(element, large))
  if (!large.size) return encoded
  const parts = []
  let from = 0
  for (const [marker, content] of large) {
    const at = encoded.indexOf(marker) - BINARY_8_HEAD.length
    const head = Buffer.from([BINARY_32, 0, 0, 0, 0])
    head.writeUInt32BE(content.length, 1)
    parts.push(encoded.subarray(from, at), head, content)
    from = at + BINARY_8_HEAD.length + marker.length
  }
  return Buffer.concat([...parts, encoded.subarray(from)])
}

/**
 * Baileys' encoder takes a third of a second per megabyte, so long contents are inserted afterwards, in place of
 * markers.
 * @param {Node} element @param {Map<Buffer, Uint8Array>} large @returns {Node}
 */
function withMarkers(element, large) {
  const { content } = element
  if (Array.isArray(content)) return { ...element, content: content.map((one) => withMarkers(one, large)) }
  if (!(content instanceof Uint8Array) || content.length < LARGE_BYTES) return element
  const marker = randomBytes(MARKER_BYTES)
  large.set(marker, content)
  return { ...element, content: marker }
}

/** @param {Buffer} bytes @returns {Node} */
export function decode(bytes) {
  const body = (bytes[0] ?? 0) & COMPRESSED ? inflateSync(bytes.subarray(1)) : bytes.subarray(1)
  return decodeDecompressedBinaryNode(body, /** @type {any} */ (constants))
}
