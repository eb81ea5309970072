/** Starts a whole virtual phone: three listeners on free loopback ports. For the program, and for tests in the same process. */
import { makeTlsIdentity } from './certificates.js'
import { listenForControl } from './control.js'
import { Phone } from './phone.js'
import { listenForClients, listenForMedia } from './server.js'

/** @param {{host?: string, port?: number, realism?: Record<string, unknown>, prefix?: string}} [options] - `port` and `prefix`: of the control API; its paths begin with it */
export async function start({ host = '127.0.0.1', port = 0, realism = {}, prefix = '' } = {}) {
  const phone = new Phone()
  phone.realism.set(realism)
  const tls = await makeTlsIdentity()
  const clients = await listenForClients(phone, host)
  const media = await listenForMedia(phone, host, tls)
  const control = await listenForControl(phone, host, port, prefix)
  return {
    phone,
    endpoints: {
      control_url: `http://${host}:${control.port}${prefix}`, socket_url: `ws://${host}:${clients.port}/ws/chat`, media_origin: `https://${host}:${media.port}`,
      media_ca: tls.ca, root_key: phone.world.root.public.toString('base64')
    },
    close: () => [control, clients, media].forEach((listener) => listener.close())
  }
}
