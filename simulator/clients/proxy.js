/**
 * An HTTP proxy that connects every tunnel to the virtual phone, whatever its target. For clients that only know the
 * names of WhatsApp's servers; the phone's certificate covers these names.
 */
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import { once } from 'node:events'

/**
 * @param {string} mediaOrigin - the phone's HTTPS listener, which takes clients and serves media
 * @returns {Promise<{url: string, close: () => void}>}
 */
export async function startProxy(mediaOrigin) {
  const { hostname, port } = new URL(mediaOrigin)
  const server = http.createServer(({ url = '/', headers }, response) => { // old versions of axios ask the proxy itself
    const { pathname, search } = new URL(url, mediaOrigin)
    https.get({ hostname, port, path: pathname + search, headers, rejectUnauthorized: false }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(response)
    }).on('error', () => response.destroy())
  })
  server.on('connect', (_request, socket, head) => {
    const phone = net.connect(Number(port), hostname, () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      phone.write(head)
      phone.pipe(socket).pipe(phone)
    })
    phone.on('error', () => socket.destroy())
    socket.on('error', () => phone.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = /** @type {net.AddressInfo} */ (server.address())
  return { url: `http://127.0.0.1:${address.port}`, close: () => (server.close(), server.closeAllConnections()) }
}
