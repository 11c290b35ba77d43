/**
 * Builds are made side by side, and a collection goes on alone: while somebody makes a build, chunks that nothing leads to
 * yet may be what it relies on. So a collection needs no grace to be safe within one process. It waits until nobody makes
 * a build; who comes to make one waits only for a collection that has begun.
 */
export interface SideBySide {
  /** Held while a build is made. */
  join(): Promise<Disposable>
  alone<T>(work: () => Promise<T>): Promise<T>
}

export function sideBySide(): SideBySide {
  let together = 0
  let alone: Promise<unknown> | undefined
  let whenEmpty = Promise.withResolvers<void>()
  return {
    async join() {
      while (alone) await alone
      together++
      let isIn = true
      return {
        [Symbol.dispose]() {
          if (!isIn) return
          isIn = false
          if (--together > 0) return
          whenEmpty.resolve()
          whenEmpty = Promise.withResolvers()
        },
      }
    },
    async alone(work) {
      while (alone || together > 0) await (alone ?? whenEmpty.promise)
      const working = work()
      const over = working.then(
        () => {},
        () => {},
      )
      alone = over
      try {
        return await working
      } finally {
        alone = undefined
      }
    },
  }
}
