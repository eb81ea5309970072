#!/usr/bin/env node
/** The virtual phone as a program: see README.md. stdout carries one line, when it is ready; everything else goes to stderr. */
import { Console } from 'node:console'
import { randomUUID } from 'node:crypto'
import { parseArgs } from 'node:util'

globalThis.console = new Console(process.stderr, process.stderr) // libsignal logs to the console, keys included in places

const USAGE = `usage: node simulator/index.js [--port N] [--host 127.0.0.1] [--exit-with-stdin] [--realism kind|real] [--realism SWITCH=VALUE …]
       [--env FILE] [--private] [--help]

A WhatsApp server and a phone on loopback, for the stock Baileys. Prints one line of JSON when it is ready:
{"control_url","socket_url","media_origin","media_ca","root_key"}. simulator/README.md has the control API.
`

/** @returns {{port: number, host: string, exitWithStdin: boolean, realism: string[], env: string, hidden: boolean}} */
function readArguments() {
  const { values } = parseArgs({
    options: { port: { type: 'string', default: '0' }, host: { type: 'string', default: '127.0.0.1' }, 'exit-with-stdin': { type: 'boolean', default: false }, help: { type: 'boolean', default: false },
      realism: { type: 'string', multiple: true, default: [] }, env: { type: 'string', default: '' }, private: { type: 'boolean', default: false } }
  })
  if (values.help) {
    process.stdout.write(USAGE)
    process.exit(0)
  }
  const port = Number(values.port)
  if (!Number.isInteger(port) || port < 0 || port > 65535) throw new Error(`--port ${values.port} is not a port`)
  return { port, host: values.host, exitWithStdin: values['exit-with-stdin'], realism: values.realism, env: values.env, hidden: values.private }
}

async function main() {
  const { port, host, exitWithStdin, realism, env, hidden } = readArguments()
  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => process.exit(0))
  if (exitWithStdin) process.stdin.once('end', () => process.exit(0)).once('close', () => process.exit(0)).resume()
  const { start } = await import('./lib/start.js')
  const { readSwitches } = await import('./lib/realism.js')
  const phone = await start({ host, port, realism: readSwitches(realism), prefix: hidden ? `/${randomUUID()}` : '' })
  if (env) (await import('./lib/env.js')).writeEnv(env, phone.endpoints)
  process.stdout.write(`${JSON.stringify(phone.endpoints)}\n`)
}

main().catch((error) => {
  console.error(`virtual phone: ${error instanceof Error ? error.message : error}`)
  process.exit(2)
})
