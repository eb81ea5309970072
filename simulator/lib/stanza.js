/** Small readers and makers of binary nodes. */
import { decodeDecompressedBinaryNode, encodeBinaryNode, getBinaryNodeChild } from 'baileys'
import * as constants from 'baileys/lib/WABinary/constants.js'
import { inflateSync } from 'node:zlib'

/** @typedef {import('baileys').BinaryNode} Node */

export const SERVER = '@s.whatsapp.net' // an address without a user
const COMPRESSED = 2

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
export const encode = (element) => encodeBinaryNode(element)

/** @param {Buffer} bytes @returns {Node} */
export function decode(bytes) {
  const body = (bytes[0] ?? 0) & COMPRESSED ? inflateSync(bytes.subarray(1)) : bytes.subarray(1)
  return decodeDecompressedBinaryNode(body, /** @type {any} */ (constants))
}
