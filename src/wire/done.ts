import type { Duplex } from 'node:stream'

/**
 * Destroys a stream once both its sides have ended. Node's own `autoDestroy` would, but it also makes a `for await` over
 * the input destroy the output when the input ends, which is no way to treat a program that answers after its input.
 */
export function destroyWhenDone(stream: Duplex): void {
  const check = () => {
    if (stream.readableEnded && stream.writableFinished) stream.destroy()
  }
  stream.once('end', check)
  stream.once('finish', check)
}
