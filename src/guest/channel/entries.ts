import { Buffer } from 'node:buffer'
import { Fault } from '../../model/fault.ts'
import { eachField, entryTag, Fields } from './fields.ts'

const longestEntry = 1_048_576

/** Entries out of a stream of bytes, each as it becomes whole. */
export async function* readEntries(bytes: AsyncIterable<Buffer>): AsyncGenerator<Fields> {
  let rest: Buffer = Buffer.alloc(0)
  for await (const chunk of bytes) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let taken = 0
    for (const { tag, value, end } of eachField(rest)) {
      if (tag === entryTag) yield new Fields(value)
      taken = end
    }
    rest = rest.subarray(taken)
    if (rest.length > longestEntry) throw new Fault('unavailable', 'the guest agent sent an entry that is too long')
  }
}
