/** The bytes on the WebSocket: the client's intro once, then frames of a 3-byte length and a body. */

const DICTIONARY = 3 // version of the token dictionary in stanzas; Baileys 6.x still has 2
const INTRO_BYTES = 4 // "WA", protocol 6, dictionary 3
const ROUTING_HEAD_BYTES = 7 // "ED" 0 1, then a 3-byte length of the routing info

/** @param {Uint8Array} body */
export function frame(body) {
  const head = Buffer.alloc(3)
  head.writeUIntBE(body.length, 0, 3)
  return Buffer.concat([head, body])
}

/** Cuts a stream of chunks into frames; the first bytes are the intro. */
export class FrameReader {
  #buffered = Buffer.alloc(0)
  /** @type {Buffer | null} */
  intro = null; // (a generator method follows)

  /** @param {Buffer} chunk @returns {Generator<Buffer>} */
  *read(chunk) {
    this.#buffered = this.#buffered.length ? Buffer.concat([this.#buffered, chunk]) : Buffer.from(chunk)
    if (!this.intro && !this.#readIntro()) return
    while (this.#buffered.length >= 3) {
      const end = 3 + this.#buffered.readUIntBE(0, 3)
      if (this.#buffered.length < end) return
      const body = this.#buffered.subarray(3, end)
      this.#buffered = this.#buffered.subarray(end)
      yield body
    }
  }

  #readIntro() {
    let start = 0
    const bytes = this.#buffered
    if (bytes.subarray(0, 2).toString('latin1') === 'ED') {
      if (bytes.length < ROUTING_HEAD_BYTES) return false
      start = ROUTING_HEAD_BYTES + bytes.readUIntBE(4, 3)
    }
    if (bytes.length < start + INTRO_BYTES) return false
    this.intro = bytes.subarray(start, start + INTRO_BYTES)
    if (this.intro.subarray(0, 2).toString('latin1') !== 'WA') throw new Error('not a WhatsApp client')
    if (this.intro[3] !== DICTIONARY) throw new Error(`the client speaks dictionary ${this.intro[3]}, this server ${DICTIONARY} only`)
    this.#buffered = bytes.subarray(start + INTRO_BYTES)
    return true
  }
}
