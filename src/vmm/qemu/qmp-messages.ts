import { z } from 'zod'
import { Fault } from '../../model/fault.ts'

/**
 * What QEMU says on its monitor socket: JSON objects, one a line.
 * https://www.qemu.org/docs/master/interop/qmp-spec.html
 */
export type QmpMessage =
  | { kind: 'greeting'; version: string }
  | { kind: 'return'; id: number; value: unknown }
  | { kind: 'error'; id: number | undefined; description: string }
  | { kind: 'event'; name: string; data: Record<string, unknown> }

export interface QmpDecoder {
  /** Messages that this piece completes. Throws a Fault on the first thing that is not a message; nothing follows then. */
  push(piece: Uint8Array): QmpMessage[]
}

/** Bounded, since a QEMU that a guest has broken out into may say anything. */
export function qmpDecoder({ maxLineBytes = 4 << 20 } = {}): QmpDecoder {
  let pieces: Uint8Array[] = []
  let held = 0
  return {
    push: (piece) => {
      const messages: QmpMessage[] = []
      let from = 0
      for (let end = piece.indexOf(10, from); end >= 0; end = piece.indexOf(10, from)) {
        const line = Buffer.concat([...pieces, piece.subarray(from, end)]).toString()
        pieces = []
        held = 0
        from = end + 1
        if (line.trim() !== '') messages.push(parseLine(line))
      }
      const rest = piece.subarray(from)
      held += rest.length
      if (held > maxLineBytes) throw new Fault('internal', `QEMU said a line of more than ${maxLineBytes} bytes`)
      if (rest.length > 0) pieces.push(Uint8Array.from(rest))
      return messages
    },
  }
}

const Message = z.union([
  z
    .object({ QMP: z.object({ version: z.object({ qemu: z.record(z.string(), z.int()) }) }) })
    .transform(({ QMP }): QmpMessage => {
      const { major, minor, micro } = QMP.version.qemu
      return { kind: 'greeting', version: [major, minor, micro].join('.') }
    }),
  z
    .object({ return: z.unknown(), id: z.int() })
    .refine((message) => 'return' in message)
    .transform((message): QmpMessage => ({ kind: 'return', id: message.id, value: message.return })),
  z
    // The id is not ours when QEMU did not understand where what we said began.
    .object({ error: z.object({ desc: z.string() }), id: z.int().optional().catch(undefined) })
    .transform(({ id, error }): QmpMessage => ({ kind: 'error', id, description: error.desc })),
  z
    .object({ event: z.string(), data: z.record(z.string(), z.unknown()).default({}) })
    .transform(({ event, data }): QmpMessage => ({ kind: 'event', name: event, data })),
])

function parseLine(line: string): QmpMessage {
  try {
    return Message.parse(JSON.parse(line))
  } catch (cause) {
    throw new Fault('internal', `QEMU said something that is no QMP message: ${line.slice(0, 100)}`, { cause })
  }
}
