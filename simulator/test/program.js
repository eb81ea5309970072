/** The virtual phone as its own process, and its control API, for tests. */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { once } from 'node:events'

export const PROGRAM = new URL('../index.js', import.meta.url).pathname

export const PATIENCE_MS = 30_000 // for a busy machine; a working server never takes this long

/** @typedef {{control_url: string, socket_url: string, media_origin: string, media_ca: string, root_key: string}} Endpoints */

/** @typedef {Awaited<ReturnType<typeof startProgram>>} Program */

/** @param {string[]} args */
export async function startProgram(...args) {
  const child = spawn(process.execPath, [PROGRAM, '--exit-with-stdin', ...args], { stdio: ['pipe', 'pipe', 'pipe'] })
  const stderr = /** @type {string[]} */ ([])
  child.stderr.on('data', (data) => stderr.push(String(data)))
  const lines = createInterface({ input: child.stdout })
  const [line] = await once(lines, 'line', { signal: AbortSignal.timeout(PATIENCE_MS) })
  const endpoints = /** @type {Endpoints} */ (JSON.parse(line))
  return { child, endpoints, stderr, ...control(endpoints.control_url), stop: () => stop(child) }
}

/** @param {import('node:child_process').ChildProcess} child */
async function stop(child) {
  const gone = once(child, 'exit')
  child.stdin?.end()
  const [code] = await gone
  return code
}

/** @param {string} url */
function control(url) {
  /** @param {string} method @param {string} path @param {unknown} [body] @returns {Promise<any>} */
  async function call(method, path, body) {
    const response = await fetch(url + path, { method, body: body === undefined ? undefined : JSON.stringify(body) })
    const answer = /** @type {any} */ (await response.json())
    if (!response.ok) throw Object.assign(new Error(`${method} ${path}: ${response.status} ${answer.error}`), { status: response.status })
    return answer
  }
  return {
    /** @param {string} path */
    get: (path) => call('GET', path),
    /** @param {string} path @param {unknown} [body] */
    post: (path, body = {}) => call('POST', path, path.endsWith('wait') || path === '/scan' ? { timeout_ms: PATIENCE_MS, ...(/** @type {object} */ (body)) } : body)
  }
}
