/** The methods that the worker may call. Holds the one connection; the worker decides when there is one. */
import { setTimeout as sleep } from 'node:timers/promises'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { Boom } from '@hapi/boom'
import { ALREADY_CONNECTED, FAILED, INVALID_PARAMS, NOT_CONNECTED, rpcError } from './peer.js'
import { MissingInternals, NOISE_MODULE } from '../baileys/internals.js'
import { mediaHosts } from '../baileys/media_hosts.js'
import { reupload } from '../baileys/reupload.js'
import { adminsOf, membersOf } from '../baileys/events.js'
import { Connection } from '../baileys/socket.js'
import { IdleMemory } from '../idle_memory.js'
import { PARAMS, RESULTS } from './types.js'

/** Pause before the same batch is sent again. The worker retries by itself before it says `unavailable`. */
const COMMIT_PAUSE_MS = 1_000

/** The server's code for a query that it refused, or Baileys' own. @param {any} error @returns {number | null} */
const refusedWith = (error) => (Number.isInteger(error?.data) ? error.data : error?.output?.statusCode ?? null)

/** What a query to WhatsApp gives, or an error with the code of its refusal. @template T @param {() => Promise<T>} query */
async function refusable(query) {
  try {
    return await query()
  } catch (error) {
    if (error?.code === NOT_CONNECTED) throw error
    throw rpcError(error.message, FAILED, { status: refusedWith(error) })
  }
}

/**
 * @param {import('./peer.js').Peer} peer
 * @param {import('pino').Logger} logger
 * @param {import('../log/mark.js').Mark} mark
 */
export function registerMethods(peer, logger, mark) {
  /** @type {Connection | null} */
  let connection = null
  /** Groups whose messages are stored; null: the worker has not said. @type {Set<string> | null} */
  let monitored = null
  const lag = monitorEventLoopDelay({ resolution: 20 })
  lag.enable()
  const idleMemory = new IdleMemory()

  /** @param {string} method @param {(params: any) => any} handler */
  const answer = (method, handler) =>
    peer.answer(method, (params) => {
      const given = params ?? {}
      if (!PARAMS[method](given)) throw rpcError(`invalid parameters of ${method}`, INVALID_PARAMS)
      return handler(given)
    })

  /** @param {string} method @param {object} params */
  const ask = async (method, params) => {
    const result = await peer.request(method, params)
    if (!RESULTS[method](result)) throw new Error(`invalid answer of the worker to ${method}`)
    return result
  }

  const open = () => {
    if (!connection || connection.ended) throw rpcError('no socket is open', NOT_CONNECTED)
    return connection
  }

  /** @param {number} epoch @param {import('../log/gate.js').Batch} batch */
  const commit = async (epoch, batch) => {
    while (connection?.params.epoch === epoch) {
      try {
        await ask('commit', { epoch, ...batch })
        return
      } catch (error) {
        // Any other error is final: the gate shuts, and WhatsApp keeps everything without a receipt.
        if (error?.data?.reason !== 'unavailable') throw error
        await sleep(COMMIT_PAUSE_MS)
      }
    }
    throw new Error('replaced by a new connection')
  }

  answer('connect', async (params) => {
    if (connection && !connection.ended) throw rpcError('a socket is open', ALREADY_CONNECTED)
    connection?.gate.fail(new Error('replaced by a new connection'))
    const { creds } = await ask('state.load', {})
    try {
      connection = new Connection(params, creds, {
        commit: (batch) => commit(params.epoch, batch),
        getKeys: async (type, ids) => (await ask('state.get', { type, ids })).values,
        known: async (hashes) => (await ask('stanzas.known', { hashes })).known,
        notify: (method, notice) => peer.notify(method, notice),
        monitored: (chat) => monitored?.has(chat) ?? true,
        mark,
        logger,
      })
    } catch (error) {
      if (!(error instanceof MissingInternals)) throw rpcError(error.message, FAILED, { reason: 'unreadable' })
      for (const line of error.lines) logger.error(line)
      throw rpcError(error.message, FAILED)
    }
    return { version: connection.version }
  })

  answer('monitor', ({ groups }) => {
    monitored = new Set(groups)
    return {}
  })

  answer('close', async ({ logout, drain_ms }) => {
    if (!connection) return { pending: 0 }
    const { gate } = connection
    if (!connection.ended) connection.stopReceiving()
    await Promise.race([gate.settled(), sleep(drain_ms, undefined, { ref: false })])
    if (!connection.ended && logout) await connection.logout()
    if (!connection.ended) {
      connection.end(new Error('closed by the worker'))
      await connection.closed
    }
    return { pending: gate.items }
  })

  answer('pairing_code', ({ phone }) => refusable(() => open().requestCode(phone)))

  answer('passkey_options', () => refusable(() => open().passkey.options()))

  answer('passkey_assertion', async ({ assertion }) => {
    await refusable(() => open().passkey.prove(assertion))
    return {}
  })

  answer('passkey_confirm', async () => {
    await refusable(() => open().passkey.confirm())
    return {}
  })

  answer('groups', ({ members_of: wanted = [] }) => refusable(async () => {
    const asked = open()
    const at = asked.serverTime
    const groups = Object.values(await asked.sock.groupFetchAllParticipating())
    const members = membersOf(groups, new Set(wanted))
    asked.learn([...members.values()].flat())
    return {
      asked_at_ms: at,
      groups: groups.map((group) => ({
        id: group.id, subject: group.subject, addressing_mode: group.addressingMode ?? null, size: group.size ?? null,
        admins: adminsOf(group), ...(members.has(group.id) ? { members: members.get(group.id) } : {}),
      })),
    }
  }))

  answer('media_refresh', async (message) => {
    try {
      return { content: await reupload(open().sock, message) }
    } catch (error) {
      if (error?.code === NOT_CONNECTED) throw error
      throw rpcError(error.message, FAILED, { status: error?.output?.statusCode ?? null, ...error?.data })
    }
  })

  answer('media_hosts', () => refusable(() => mediaHosts(open().sock)))

  answer('ping', () => {
    const waiting = connection && !connection.ended ? connection.gate.items + connection.inbox.waiting : 0
    idleMemory.check(connection?.stanzasIn ?? 0, waiting)
    const memory = process.memoryUsage()
    const lagMs = lag.mean / 1e6
    lag.reset()
    const stuck = connection?.inbox.closed ? null : connection?.inbox.stuck
    return {
      rss_bytes: memory.rss,
      heap_bytes: memory.heapUsed,
      log_items: connection?.gate.items ?? 0,
      log_bytes: connection?.gate.bytes ?? 0,
      log_bytes_max: connection?.gate.bytesMax ?? 0,
      held_frames: connection?.gate.held ?? 0,
      longest_hold_ms: connection?.gate.longestHoldMs ?? 0,
      open_sections: connection?.gate.openSections ?? 0,
      loop_lag_ms: Number.isFinite(lagMs) ? Math.round(lagMs) : 0,
      stanzas_in: connection?.stanzasIn ?? 0,
      stanzas_out: connection?.stanzasOut ?? 0,
      stuck_ms: stuck?.ms ?? null,
      stuck_hash: stuck?.stanza.hash ?? null,
      last_stanza_at_ms: connection?.lastStanzaAt || null,
      last_group_stanza_at_ms: connection?.lastGroupStanzaAt || null,
      swallowed: connection?.inbox.swallowed ?? 0,
      complete: connection?.complete ?? null,
    }
  })

  return {
    /** @param {Error} error a rejection inside Baileys that nothing handled */
    onUnhandled(error) {
      peer.notify('stalled', { reason: 'unhandled', detail: { error: error?.name ?? 'Error' } })
      // After a frame that does not decrypt, the Noise counters never agree again, and Baileys does not end the socket
      // (docs/whatsapp.md, "The server's side").
      if (!String(error?.stack).includes(NOISE_MODULE)) return
      connection?.end(new Boom('a frame could not be read', { statusCode: 428 }))
    },
  }
}
