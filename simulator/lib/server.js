/** The loopback listeners: the WebSocket for clients, and the media host. Connection faults happen here. */
import http from 'node:http'
import https from 'node:https'
import { once } from 'node:events'
import { WebSocketServer } from 'ws'
import { Connection } from './connection.js'
import { handlers } from './dispatch.js'

const SOCKET_PATH = '/ws/chat'
const MAX_FRAME_BYTES = 64 * 1024 * 1024

/** @type {import('ws').ServerOptions} */
const SOCKET_OPTIONS = { noServer: true, perMessageDeflate: false, maxPayload: MAX_FRAME_BYTES }

/** @param {import('node:net').Server} server */
const portOf = (server) => /** @type {import('node:net').AddressInfo} */ (server.address()).port

/**
 * @param {import('./phone.js').Phone} phone @param {string} host
 * @returns {Promise<{port: number, close: () => void}>}
 */
export async function listenForClients(phone, host) {
  const wss = new WebSocketServer(SOCKET_OPTIONS)
  const make = () => http.createServer((_request, response) => void response.writeHead(426).end()).on('upgrade', acceptClients(phone, wss))
  let server = make().listen(0, host)
  await once(server, 'listening')
  const port = portOf(server)
  phone.world.listening = async (open) => {
    if (open === server.listening) return
    if (!open) return void server.close()
    server = make().listen(port, host)
    await once(server, 'listening')
  }
  return { port, close: () => (server.close(), server.closeAllConnections(), wss.clients.forEach((client) => client.terminate())) }
}

/**
 * @param {import('./phone.js').Phone} phone @param {WebSocketServer} wss
 * @returns {(request: http.IncomingMessage, socket: any, head: Buffer) => void} what a listener does with an upgrade
 */
const acceptClients = (phone, wss) => (request, socket, head) => {
  const refused = phone.faults.take('http_status')
  if (refused || !request.url?.startsWith(SOCKET_PATH)) return refuse(socket, Number(refused?.status ?? 404))
  wss.handleUpgrade(request, socket, head, (ws) => new Connection(phone, ws, socket, handlers))
}

/** @param {import('node:net').Socket} socket @param {number} status */
function refuse(socket, status) {
  socket.end(`HTTP/1.1 ${status} ${http.STATUS_CODES[status] ?? ''}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
}

/**
 * The media host. It also accepts clients that only know the names of WhatsApp's servers: clients/proxy.js leads both
 * here.
 * @param {import('./phone.js').Phone} phone @param {string} host @param {{cert: string, key: string}} identity
 */
export async function listenForMedia(phone, host, identity) {
  const wss = new WebSocketServer(SOCKET_OPTIONS)
  const server = https.createServer(identity, (request, response) => phone.media.serve(request, response)).on('upgrade', acceptClients(phone, wss)).listen(0, host)
  await once(server, 'listening')
  return { port: portOf(server), close: () => (server.close(), server.closeAllConnections(), wss.clients.forEach((client) => client.terminate())) }
}
