import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { reset } from './reset.ts'

test('a connection whose end is just being sent is closed when it is cut', async () => {
  const heard = Promise.withResolvers<Socket>()
  const server = createServer({ allowHalfOpen: true }, heard.resolve).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true })
  await once(socket, 'connect')
  const other = await heard.promise
  const ended = once(other.resume(), 'end')
  socket.end()
  reset(socket)
  // What could not be closed says so as an error.
  await Promise.all([once(socket, 'close'), ended])
  other.destroy()
  await new Promise((resolve) => server.close(resolve))
})
