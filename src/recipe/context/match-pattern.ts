/**
 * Matches names as Docker does in COPY, which is Go's filepath.Match (https://pkg.go.dev/path/filepath#Match): `*` and `?`
 * match within one name, `[a-z]` and `[^a-z]` one character, a backslash takes the meaning away. Undefined for a pattern
 * that is none, such as one with an open bracket.
 */
export function matchPattern(pattern: string): RegExp | undefined {
  let source = ''
  for (let at = 0; at < pattern.length; ) {
    const character = pattern.charAt(at)
    if (character === '*') source += '[^/]*'
    else if (character === '?') source += '[^/]'
    else if (character === '\\') {
      at += 1
      if (at >= pattern.length) return undefined
      source += literal(pattern.charAt(at))
    } else if (character === '[') {
      const set = /^\[(\^?)((?:\\.|[^\]\\])+)\]/s.exec(pattern.slice(at))
      const body = set && readSet(set[2] ?? '')
      if (!set || body === undefined) return undefined
      source += `[${set[1]}${body}]`
      at += set[0].length
      continue
    } else source += literal(character)
    at += 1
  }
  return new RegExp(`^${source}$`, 's')
}

/** Whether a pattern can match anything but itself. */
export function isPattern(text: string): boolean {
  return /[*?[\\]/.test(text)
}

function literal(character: string): string {
  return character.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')
}

function readSet(body: string): string | undefined {
  const characters = [...body.matchAll(/\\(.)|(.)/gs)].map(([, escaped, plain]) => ({
    character: escaped ?? plain ?? '',
    isDash: plain === '-',
  }))
  let source = ''
  for (let at = 0; at < characters.length; at += 1) {
    const from = characters[at]
    const to = characters[at + 2]
    if (!from || from.isDash) return undefined
    source += literal(from.character)
    if (!characters[at + 1]?.isDash) continue
    if (!to || to.isDash || to.character < from.character) return undefined
    source += `-${literal(to.character)}`
    at += 2
  }
  return source
}
