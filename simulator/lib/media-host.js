/** The media host: encrypted blobs by path, served over HTTPS, with faults. Like the real one, it knows no keys. */
import { randomBytes } from 'node:crypto'
import { Journal } from './journal.js'

/** @typedef {{path?: string, host?: string, mode: string, times: number, ms: number, to?: string}} MediaFault */

const DEFAULT_SLOW_MS = 200 // between chunks
const CHUNK_BYTES = 16 * 1024

export class MediaHost {
  requests = new Journal()
  /** @type {Map<string, Buffer>} by path without the query */
  blobs = new Map()
  /** @type {Map<string, () => Buffer>} what `wrong_hash` serves instead, made when it is wanted */
  impostors = new Map()
  /** @type {MediaFault[]} */
  faults = []
  /** @type {Map<string, number>} requests per path */
  count = new Map()

  /** Puts a blob under a new path. @param {Buffer} blob @param {() => Buffer} impostor @returns {string} its directPath */
  put(blob, impostor) {
    const path = `/v/t62.7118-24/${randomBytes(12).toString('hex')}_n.enc`
    this.blobs.set(path, blob)
    this.impostors.set(path, impostor)
    return `${path}?ccb=11-4&oh=${randomBytes(8).toString('hex')}&oe=70000000&_nc_sid=5e03e0`
  }

  /** @param {string} mode @param {string} path */
  takeFault(mode, path) {
    return this.#take((fault) => fault.mode === mode, path)
  }

  /** @param {(fault: MediaFault) => boolean} applies @param {string} path */
  #take(applies, path) {
    const fault = this.faults.find((one) => applies(one) && (one.path === undefined || one.path === path))
    if (fault && fault.times > 0 && --fault.times === 0) this.faults = this.faults.filter((one) => one !== fault)
    return fault
  }

  /** @param {import('node:http').IncomingMessage} request @param {import('node:http').ServerResponse} response */
  serve(request, response) {
    const path = (request.url ?? '/').split('?')[0] ?? '/'
    const host = request.headers.host ?? ''
    const blob = this.blobs.get(path)
    const fault = blob && this.#take(({ mode, host: only }) => !mode.startsWith('reupload') && (only === undefined || only === host), path)
    this.count.set(path, (this.count.get(path) ?? 0) + 1)
    const status = /^\d+$/.test(fault?.mode ?? '') ? Number(fault?.mode) : fault?.mode === 'redirect' ? 302 : blob ? 200 : 404
    if (fault?.mode === 'down') return void (this.requests.add('request', { path, host, status: null, fault: 'down', bytes: 0 }), request.socket.destroy())
    this.requests.add('request', { path, host, status, fault: fault?.mode ?? null, bytes: status === 200 ? blob?.length ?? 0 : 0, range: request.headers.range ?? null })
    if (fault?.mode === 'redirect') return void response.writeHead(302, { location: fault.to ?? `https://example.invalid${path}` }).end()
    if (!blob || status !== 200) return void response.writeHead(status).end()
    this.#body(response, blob, path, fault)
  }

  /** @param {import('node:http').ServerResponse} response @param {Buffer} blob @param {string} path @param {MediaFault | undefined} fault */
  #body(response, blob, path, fault) {
    const half = blob.subarray(0, blob.length >> 1)
    const start = (/** @type {number} */ length) => response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': length })
    switch (fault?.mode) {
      case 'stall':
        return void start(blob.length).write(half)
      case 'drop':
        return void start(blob.length).write(half, () => response.socket?.destroy())
      case 'truncate':
        return void start(half.length).end(half)
      case 'flip': {
        const copy = Buffer.from(blob)
        copy[copy.length >> 1] = (copy[copy.length >> 1] ?? 0) ^ 1
        return void start(copy.length).end(copy)
      }
      case 'wrong_hash': {
        const other = this.impostors.get(path)?.() ?? blob
        return void start(other.length).end(other)
      }
      case 'endless':
        return this.#trickle(response.writeHead(200), null, 0)
      case 'slow':
        return this.#trickle(start(blob.length), blob, fault.ms || DEFAULT_SLOW_MS)
      default:
        return void start(blob.length).end(blob)
    }
  }

  /** @param {import('node:http').ServerResponse} response @param {Buffer | null} blob - null: zeros without end @param {number} ms */
  #trickle(response, blob, ms, from = 0) {
    if (response.destroyed) return
    if (blob && from >= blob.length) return void response.end()
    const chunk = blob ? blob.subarray(from, from + CHUNK_BYTES) : Buffer.alloc(CHUNK_BYTES)
    const next = () => setTimeout(() => this.#trickle(response, blob, ms, from + CHUNK_BYTES), ms).unref()
    response.write(chunk, (error) => void (error ?? next()))
  }
}
