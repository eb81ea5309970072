#!/usr/bin/env node
/**
 * The sidecar: Baileys behind JSON-RPC on stdio. It is started by the worker and ends with it.
 *
 * The order of this file matters: the console and the signature check are replaced before anything of Baileys loads.
 */
import { captureConsole, makeLogger } from './lib/baileys/logger.js'
import { installStrictSignatures } from './lib/baileys/curve.js'

if (process.argv.includes('--help') || process.stdin.isTTY) {
  process.stderr.write('The wa-worker sidecar speaks JSON-RPC on stdin and stdout (docs/protocol.md). It is started by `wa-worker`, not by hand.\n')
  process.exit(process.argv.includes('--help') ? 0 : 2)
}

const logger = makeLogger(process.env.LOG_LEVEL ?? 'info')
captureConsole(logger)
const signatures = installStrictSignatures()
if (!signatures.native) logger.warn({ reason: signatures.reason }, 'signatures are checked strictly, but slowly, by libsignal itself')

const { makePeer } = await import('./lib/wire/peer.js')
const { registerMethods } = await import('./lib/wire/methods.js')

const peer = makePeer({
  input: process.stdin,
  output: process.stdout,
  logger,
  onEnd: () => process.exit(0), // the worker has gone; what is not durable has no receipt
})
const { onUnhandled } = registerMethods(peer, logger)

process.on('unhandledRejection', (error) => {
  logger.error({ err: error }, 'an unhandled rejection')
  onUnhandled(/** @type {Error} */ (error))
})
process.on('uncaughtException', (error) => {
  logger.error({ err: error }, 'an uncaught exception: the sidecar ends')
  process.exit(1)
})
