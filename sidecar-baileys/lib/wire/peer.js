/** JSON-RPC 2.0 in both directions over one line link. */
import {
  JSONRPCClient, JSONRPCErrorException, JSONRPCServer, JSONRPCServerAndClient, createJSONRPCErrorResponse,
} from 'json-rpc-2.0'
import { makeLineLink } from './stdio.js'

/** JSON-RPC's own code for bad parameters. */
export const INVALID_PARAMS = -32602
/** A socket is open already. */
export const ALREADY_CONNECTED = -32001
/** No socket is open. */
export const NOT_CONNECTED = -32002
/** WhatsApp or Baileys refused. */
export const FAILED = -32003

/** @param {string} message @param {number} code @param {object} [data] */
export const rpcError = (message, code, data) => new JSONRPCErrorException(message, code, data)

/**
 * @param {object} options
 * @param {NodeJS.ReadableStream} options.input
 * @param {NodeJS.WritableStream} options.output
 * @param {import('pino').Logger} options.logger
 * @param {() => void} options.onEnd
 */
export function makePeer({ input, output, logger, onEnd }) {
  const link = makeLineLink({
    input,
    output,
    onDocument: (document) => {
      peer.receiveAndSend(document, undefined, undefined).catch((error) =>
        logger.error({ err: error }, 'a request failed'))
    },
    onEnd: () => {
      peer.rejectAllPendingRequests('the worker has gone')
      onEnd()
    },
    onProtocolError: (error) => logger.error({ err: error }, 'the worker sent a line that is not of the protocol'),
  })
  const server = new JSONRPCServer({ errorListener: () => {} })
  server.mapErrorToJSONRPCErrorResponse = (id, error) =>
    createJSONRPCErrorResponse(id, error?.code ?? FAILED, error?.message ?? 'failed', error?.data)
  const client = new JSONRPCClient(async (document) => link.send(document))
  const peer = new JSONRPCServerAndClient(server, client, { errorListener: () => {} })
  return {
    /** @param {string} method @param {(params: any) => any} handler */
    answer: (method, handler) => peer.addMethod(method, handler),
    /** @param {string} method @param {object} params @returns {Promise<any>} */
    request: async (method, params) => peer.request(method, params, undefined),
    /** @param {string} method @param {object} params */
    notify: (method, params) => peer.notify(method, params, undefined),
  }
}

/** @typedef {ReturnType<typeof makePeer>} Peer */
