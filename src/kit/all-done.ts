/**
 * As `Promise.all`, but settles only when every one has: whoever cleans up after a failure then finds all there is to
 * clean, and nothing comes to be afterwards.
 */
export async function allDone<const T extends readonly unknown[]>(
  promises: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(promises)
  return Promise.all(promises)
}
