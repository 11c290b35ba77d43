import { readFileSync } from 'node:fs'
import { hugePageBytes } from '../../blocks/memory/libc.ts'

/** Bytes in pages of 2 MiB that this machine has set aside, and those of them that nobody has and that are promised to nobody. */
export interface HugePages {
  setAsideBytes: number
  freeBytes: number
}

const directory = '/sys/kernel/mm/hugepages/hugepages-2048kB'

/** Undefined where none are set aside. */
export function hugePages(from = directory): HugePages | undefined {
  const read = (name: string) => Number(readFileSync(`${from}/${name}`, 'utf8'))
  try {
    const setAsideBytes = read('nr_hugepages') * hugePageBytes
    if (setAsideBytes === 0) return undefined
    return { setAsideBytes, freeBytes: (read('free_hugepages') - read('resv_hugepages')) * hugePageBytes }
  } catch {
    return undefined
  }
}
