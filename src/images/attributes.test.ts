import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { test } from 'node:test'
import { extract, type Header, pack } from 'tar-stream'
import { type Attributes, attributeEntry, listenForAttributes } from './attributes.ts'

/** May set the user, which has a byte that is no text. */
const capability = Buffer.from('0100000280000000000000000000000000000000', 'hex')

async function archive(): Promise<Buffer> {
  const stream = pack()
  const put = (header: Partial<Header> & { name: string }, body?: string) =>
    new Promise<void>((resolve) => {
      if (body === undefined) stream.entry(header, () => resolve())
      else stream.entry(header, body, () => resolve())
    })
  const whole = buffer(stream)
  const records = (attributes: Attributes) => void stream.push(attributeEntry(attributes))
  await put({ name: 'plain' }, 'x'.repeat(700))
  records({
    'security.capability': capability,
    'user.note': Buffer.from('a=b'),
    'trusted.overlay.opaque': Buffer.from('y'),
  })
  await put({ name: 'able' }, 'y'.repeat(512))
  records({ 'user.note': Buffer.from('of a directory') })
  await put({ name: 'directory', type: 'directory' })
  await put({ name: `${'long/'.repeat(60)}name` }, 'z')
  stream.finalize()
  return whole
}

test('extended attributes are heard as bytes, however the archive is cut into pieces', async () => {
  const bytes = await archive()
  for (const size of [1, 100, 512, 1000, bytes.length]) {
    const pieces: Buffer[] = []
    for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.subarray(at, at + size))
    const { stream, of } = listenForAttributes()
    const entries = extract()
    Readable.from(pieces).pipe(stream).pipe(entries)
    const found: Record<string, Attributes> = {}
    for await (const entry of entries) {
      const attributes = of(entry.header)
      if (attributes) found[entry.header.name] = attributes
      entry.resume()
    }
    assert.deepEqual(found, {
      able: { 'security.capability': capability, 'user.note': Buffer.from('a=b') },
      directory: { 'user.note': Buffer.from('of a directory') },
    })
  }
})
