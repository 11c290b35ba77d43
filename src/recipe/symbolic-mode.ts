/** What a mode becomes; `X` looks at whether it is a directory. */
export type ChangeMode = (mode: number, isDirectory: boolean) => number

const classes = { u: 6, g: 3, o: 0 } as const
const all = ['u', 'g', 'o'] as const
type Class = (typeof all)[number]

/**
 * Reads what `chmod` takes besides octal digits: `u=rwX,go=rX`, `a+x`, `g=u`, `u+s`, `+t`. Without a class all are meant, as
 * if no umask were set. Undefined when it is not such a text.
 */
export function parseSymbolicMode(text: string): ChangeMode | undefined {
  const changes: ChangeMode[] = []
  for (const clause of text.split(',')) {
    const [, who = '', actions] = /^([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)$/.exec(clause) ?? []
    if (actions === undefined) return undefined
    const meant = who === '' || who.includes('a') ? all : all.filter((each) => who.includes(each))
    for (const [, operator = '', what = ''] of actions.matchAll(/([-+=])([rwxXstugo]*)/g))
      changes.push((mode, isDirectory) => change(mode, isDirectory, { meant, operator, what }))
  }
  return (mode, isDirectory) => changes.reduce((before, each) => each(before, isDirectory), mode)
}

function change(
  mode: number,
  isDirectory: boolean,
  { meant, operator, what }: { meant: readonly Class[]; operator: string; what: string },
): number {
  const permissions = bitsOf(mode, isDirectory, what)
  let bits = 0
  let covered = 0
  for (const each of meant) {
    bits |= permissions << classes[each]
    covered |= 7 << classes[each]
  }
  const special = { u: 0o4000, g: 0o2000, o: 0 }
  for (const each of meant) {
    covered |= special[each]
    if (what.includes('s')) bits |= special[each]
  }
  if (what.includes('t')) bits |= 0o1000
  if (operator === '+') return mode | bits
  return operator === '-' ? mode & ~bits : (mode & ~covered) | bits
}

/** As of one class: `rwx`, or what another class has. */
function bitsOf(mode: number, isDirectory: boolean, what: string): number {
  const [only = ''] = what
  if (only === 'u' || only === 'g' || only === 'o') return (mode >> classes[only]) & 7
  const executes = what.includes('x') || (what.includes('X') && (isDirectory || (mode & 0o111) !== 0))
  return (what.includes('r') ? 4 : 0) | (what.includes('w') ? 2 : 0) | (executes ? 1 : 0)
}
