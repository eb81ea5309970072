/** The WebSocket under Baileys: where frames leave, where reading is paused, and how it ends. */

/** How long a close waits for the peer's close frame; `ws` itself would wait 30 s. */
export const CLOSE_PATIENCE_MS = 2_000

/**
 * @typedef {object} TransportHooks
 * @property {(frame: Uint8Array) => void} onFrame Baileys sends an encrypted frame: `write` it later, in this order
 * @property {(status: number) => void} onRefused the server answered the upgrade with this HTTP status
 */

export class Transport {
  #socket
  #send

  /** @param {any} socket of the `ws` package @param {TransportHooks} hooks */
  constructor(socket, hooks) {
    this.#socket = socket
    this.#send = socket.send.bind(socket)
    socket.send = (/** @type {Uint8Array} */ frame, /** @type {any} */ callback) => {
      hooks.onFrame(frame)
      // Baileys must not wait for the database: tell it at once that the frame is sent.
      if (typeof callback === 'function') callback()
    }
    const close = socket.close.bind(socket)
    socket.close = (/** @type {any[]} */ ...args) => {
      socket.resume() // while paused, it would never read the peer's close frame
      close(...args)
      setTimeout(() => socket.terminate(), CLOSE_PATIENCE_MS).unref()
    }
    socket.on('unexpected-response', (/** @type {any} */ request, /** @type {any} */ response) => {
      request.destroy() // Baileys raises no event for this (docs/whatsapp.md, "The server's side")
      hooks.onRefused(response.statusCode)
    })
  }

  /** @param {Uint8Array} frame */
  write(frame) {
    if (this.#socket.readyState === this.#socket.OPEN) this.#send(frame)
  }

  pause() { this.#socket.pause() }
  resume() { this.#socket.resume() }
  terminate() { this.#socket.terminate() }
}
