/** Bytes as `hexdump -C` prints them: sixteen a line, and a star for lines like the one before. */
export function hexdump(bytes: Buffer, offset: number): string {
  const lines: string[] = []
  let before: Buffer | undefined
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16)
    const isSame = before?.equals(row) && at + 16 < bytes.length
    if (isSame) {
      if (lines.at(-1) !== '*') lines.push('*')
      continue
    }
    before = row
    const hex = [row.subarray(0, 8), row.subarray(8)].map((half) =>
      [...half].map((byte) => byte.toString(16).padStart(2, '0')).join(' '),
    )
    const text = [...row].map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.')).join('')
    lines.push(`${address(offset + at)}  ${(hex[0] ?? '').padEnd(23)}  ${(hex[1] ?? '').padEnd(23)}  |${text}|`)
  }
  return [...lines, address(offset + bytes.length), ''].join('\n')
}

function address(at: number): string {
  return at.toString(16).padStart(8, '0')
}
