/**
 * Which name a client says it wants to talk to, from the first bytes of its connection: the server name of a TLS hello, or
 * the Host of an HTTP request. The bytes are a stranger's, so that nothing is read beyond `mostBytes` and every length is
 * checked before it is followed.
 */
export type Said = { kind: 'name'; name: string; by: 'tls' | 'http' } | { kind: 'more' } | { kind: 'none'; why: string }

export const mostBytes = 16 * 1024

export function nameSaid(bytes: Buffer): Said {
  if (bytes.length === 0) return more
  const said = bytes[0] === handshakeRecord ? nameInTls(bytes) : nameInHttp(bytes)
  if (said.kind === 'more' && bytes.length >= mostBytes) return none('its first 16 KiB name no host')
  return said.kind === 'name' && !hostName.test(said.name) ? none('what it names is not a host name') : said
}

const more: Said = { kind: 'more' }
const none = (why: string): Said => ({ kind: 'none', why })
const hostName = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/i

const handshakeRecord = 22
const clientHello = 1
const serverNameExtension = 0

/** RFC 8446, 4 and 5.1: the hello may be cut into several records. */
function nameInTls(bytes: Buffer): Said {
  const parts: Buffer[] = []
  for (let at = 0; at < bytes.length; ) {
    if (bytes[at] !== handshakeRecord || (bytes[at + 1] ?? 3) !== 3) return none('its TLS hello is broken')
    if (at + 5 > bytes.length) break
    const length = bytes.readUInt16BE(at + 3)
    if (length === 0) return none('its TLS hello is broken')
    parts.push(bytes.subarray(at + 5, at + 5 + length))
    at += 5 + length
    const said = nameInHello(Buffer.concat(parts))
    if (said.kind !== 'more') return said
  }
  return more
}

/** RFC 8446, 4.1.2 and RFC 6066, 3. */
function nameInHello(hello: Buffer): Said {
  if (hello.length < 4) return more
  if (hello[0] !== clientHello) return none('its TLS hello is broken')
  const end = 4 + hello.readUIntBE(1, 3)
  if (end > mostBytes) return none('its TLS hello is too long')
  if (hello.length < end) return more
  const broken = none('its TLS hello is broken')
  const body = hello.subarray(4, end)
  let at = 2 + 32
  for (const width of [1, 2, 1] as const) {
    if (at + width > body.length)
      return at === body.length && width === 1 ? none('its TLS hello names no host') : broken
    at += width + body.readUIntBE(at, width)
  }
  if (at === body.length) return none('its TLS hello names no host')
  if (at + 2 > body.length || at + 2 + body.readUInt16BE(at) !== body.length) return broken
  for (at += 2; at + 4 <= body.length; ) {
    const type = body.readUInt16BE(at)
    const content = body.subarray(at + 4, at + 4 + body.readUInt16BE(at + 2))
    at += 4 + body.readUInt16BE(at + 2)
    if (at > body.length) return broken
    if (type !== serverNameExtension) continue
    // One list, one entry, type 0: nobody sends anything else.
    if (content.length < 5 || content[2] !== 0 || content.readUInt16BE(0) !== content.length - 2) return broken
    if (content.readUInt16BE(3) !== content.length - 5) return broken
    return { kind: 'name', name: content.subarray(5).toString('latin1'), by: 'tls' }
  }
  return none('its TLS hello names no host')
}

/** RFC 9112, 3.2: exactly one Host. */
function nameInHttp(bytes: Buffer): Said {
  const text = bytes.subarray(0, mostBytes).toString('latin1')
  if (!/^[A-Z]{1,20}( |$)/.test(text.slice(0, 21))) return none('it speaks neither TLS nor HTTP')
  const end = text.indexOf('\r\n\r\n')
  if (end < 0) return more
  const [, ...fields] = text.slice(0, end).split('\r\n')
  const hosts = fields.flatMap((field) => /^host:[ \t]*([^ \t]*)[ \t]*$/i.exec(field)?.[1] ?? [])
  const [host] = hosts
  if (host === undefined || hosts.length !== 1 || fields.filter((field) => /^host\s*:/i.test(field)).length !== 1)
    return none('its HTTP request names no host, or more than one')
  return { kind: 'name', name: host.replace(/:\d{1,5}$/, '').replace(/\.$/, ''), by: 'http' }
}
