/** When WhatsApp was last heard, and up to which time everything that it sent is durable. */

export class HighWater {
  /** When any frame last came, milliseconds since 1970. */
  #lastFrameAt = 0
  /** When WhatsApp said that it has sent everything that had waited; Infinity before. */
  #backlogEndedAt = Infinity

  /** A frame came. @param {number} now milliseconds since 1970 */
  frame(now) { this.#lastFrameAt = now }

  /** The frame that just came ended the backlog. */
  backlogEnded() { this.#backlogEndedAt = this.#lastFrameAt }

  /**
   * By this machine's clock; null while part of the backlog is not durable. The socket keeps the order: nothing older
   * can follow the last frame.
   * @param {number} pending when the oldest of what is not durable yet arrived; Infinity if all is
   * @param {number} now
   * @returns {number | null} milliseconds since 1970
   */
  upTo(pending, now) {
    if (pending <= this.#backlogEndedAt) return null
    // Somebody has set this machine's clock back: these times mean nothing until the next frame.
    if (this.#lastFrameAt > now || (pending > now && pending < Infinity)) return null
    return Math.min(this.#lastFrameAt, pending)
  }
}
