import { closeSync } from 'node:fs'

/** The descriptors that a process begins with, ours until it has them: disposing closes our side. */
export class Inherited implements Disposable {
  readonly stdio: ('ignore' | 'pipe' | number)[] = ['ignore']
  readonly #owned: number[] = []

  /** Gives the number by which the process has it. */
  add(fd: number): number {
    this.#owned.push(fd)
    return this.lend(fd)
  }

  /** As `add`, of one that stays open here. */
  lend(fd: number): number {
    return this.stdio.push(fd) - 1
  }

  [Symbol.dispose](): void {
    for (const fd of this.#owned) closeSync(fd)
  }
}

/** The name by which a process opens what it has under this number. */
export function inSelf(number: number | string): string {
  return `/proc/self/fd/${number}`
}
