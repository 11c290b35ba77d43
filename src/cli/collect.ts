/** All pages of a list. */
export async function collect<K extends string, R>(
  rows: K,
  ask: (after: string | undefined) => Promise<{ next: string | null } & { [P in K]: R[] }>,
): Promise<R[]> {
  const all: R[] = []
  let after: string | undefined
  for (;;) {
    const answer = await ask(after)
    all.push(...answer[rows])
    if (answer.next === null) return all
    after = answer.next
  }
}
