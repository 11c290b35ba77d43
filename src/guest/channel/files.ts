import type { Readable, Writable } from 'node:stream'
import type { FileEntry, FileEvent, GuestFiles } from '../channel.ts'
import { readEntries } from './entries.ts'
import type { encodeFields, Fields, Operation } from './fields.ts'
import { GuestStream } from './stream.ts'
import type { Wire } from './wire.ts'

/** Files in the guest, as root; each call is one stream. */
export function guestFiles(wire: Wire): GuestFiles {
  const ask = async (operation: Operation, fields: Parameters<typeof encodeFields>[0], signal: AbortSignal) => {
    const stream = new GuestStream(wire, operation, fields, signal)
    return { stream, reply: await stream.reply(signal) }
  }
  return {
    async read(path, { signal, offset, length }): Promise<Readable> {
      const { stream } = await ask('read', { path, offset, length }, signal)
      return abortable(stream.reader(0), stream, signal)
    },
    async write(path, { signal, mode, user }): Promise<Writable & { written: Promise<void> }> {
      const { stream } = await ask('write', { path, mode, user }, signal)
      const written = stream.finished.then(() => {})
      written.catch(() => {})
      const writer = abortable(stream.writer(), stream, signal)
      // Destroyed half-way: nothing may appear under its name.
      writer.once('close', () => {
        if (!writer.writableFinished) stream.fail(writer.errored ?? new Error('the write was given up'))
      })
      return Object.assign(writer, { written })
    },
    async stat(path, { signal }) {
      return fileEntry((await ask('stat', { path }, signal)).reply)
    },
    async list(path, { signal }) {
      const { stream } = await ask('list', { path }, signal)
      const found: FileEntry[] = []
      for await (const entry of readEntries(abortable(stream.reader(0), stream, signal))) found.push(fileEntry(entry))
      return found
    },
    async makeDirectory(path, { signal, user }) {
      await ask('makeDirectory', { path, user }, signal)
    },
    async move(path, to, { signal }) {
      await ask('move', { path, to }, signal)
    },
    async remove(path, { signal }) {
      await ask('remove', { path }, signal)
    },
    async watch(path, { signal, recursive }) {
      const { stream } = await ask('watch', { path, recursive }, signal)
      return fileEvents(abortable(stream.reader(0), stream, signal))
    },
  }
}

async function* fileEvents(bytes: Readable): AsyncGenerator<FileEvent> {
  for await (const entry of readEntries(bytes)) {
    yield { kind: entry.text('kind') as FileEvent['kind'], path: entry.text('path') }
  }
}

/** After the first answer: aborting, or destroying the end that is handed out, gives the stream up. */
function abortable<T extends Readable | Writable>(end: T, stream: GuestStream, signal: AbortSignal): T {
  const abort = () => stream.fail(signal.reason)
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort, { once: true })
  end.once('close', () => {
    signal.removeEventListener('abort', abort)
    if ('readableEnded' in end && !end.readableEnded) stream.fail(new Error('nobody reads any more'))
  })
  return end
}

function fileEntry(fields: Fields): FileEntry {
  const type = fields.text('type')
  return {
    name: fields.text('name'),
    type: type === 'file' || type === 'directory' || type === 'link' ? type : 'other',
    size: fields.number('size'),
    mode: fields.number('mode'),
    uid: fields.number('uid'),
    gid: fields.number('gid'),
    changedAt: fields.number('time'),
    ...(fields.has('target') ? { target: fields.text('target') } : {}),
  }
}
