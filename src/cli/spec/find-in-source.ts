/**
 * Where a path probably stands in the source of a job file: its keys are looked for one after the other, from the line
 * of the `job({…})` on. A guess, because programs may build their jobs in any way; good where they are written out.
 */
export function findInSource(
  source: string,
  path: readonly PropertyKey[],
  fromLine: number | undefined,
): { line: number; column: number } | undefined {
  if (fromLine === undefined) return undefined
  const start = source
    .split('\n')
    .slice(0, fromLine - 1)
    .join('\n').length
  let at = start
  let found: number | undefined
  for (const step of path) {
    if (typeof step === 'number') continue
    const name = String(step).replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
    const match = new RegExp(`(?<![\\w-])['"]?${name}['"]?\\s*:`).exec(source.slice(at))
    if (!match) break
    found = at + match.index
    at = found + match[0].length
  }
  const before = source.slice(0, found ?? start + 1)
  const line = found === undefined ? fromLine : before.split('\n').length
  return { line, column: found === undefined ? 1 : before.length - before.lastIndexOf('\n') }
}
