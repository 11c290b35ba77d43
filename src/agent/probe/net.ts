import { request } from 'node:http'
import { connect } from 'node:net'
import type { Probe } from '../probe.ts'

/** Health checks over the real network: one connection each, so that a check sees what a new client would. */
export const netProbe: Probe = {
  http: ({ host, port, path }, { signal }) =>
    new Promise((resolve, reject) => {
      const asking = request(
        { host, port, path, signal, agent: false, headers: { 'user-agent': 'tutti-check' } },
        (answer) => {
          const { statusCode = 0 } = answer
          answer.destroy()
          if (statusCode >= 200 && statusCode < 400) resolve()
          else reject(new Error(`it answered with status ${statusCode}`))
        },
      )
      asking.on('error', reject)
      asking.end()
    }),

  tcp: ({ host, port }, { signal }) =>
    new Promise((resolve, reject) => {
      const socket = connect({ host, port })
      const abort = () => socket.destroy(new Error('no answer'))
      signal.addEventListener('abort', abort, { once: true })
      socket.on('error', reject)
      socket.on('close', () => signal.removeEventListener('abort', abort))
      socket.on('connect', () => {
        resolve()
        socket.destroy()
      })
      if (signal.aborted) abort()
    }),
}
