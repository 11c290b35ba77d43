import type { Socket } from 'node:net'

/** Ends it so that the other side knows that it was not heard out, where the kind of socket can say so. */
export function reset(socket: Socket): void {
  // One whose end is just being sent cannot be reset: Node would be refused, and then never close it.
  const isEnding = socket.writableEnded && !socket.writableFinished
  if (socket.remoteFamily === undefined || isEnding) socket.destroy()
  else socket.resetAndDestroy()
}
