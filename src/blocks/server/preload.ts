import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const execute = promisify(execFile)

/**
 * QEMU asks for huge pages in its memory, and the kernel then reads a MiB or two around each page that is touched; for a
 * memory that comes from afar that is most of it. Preloaded, this turns that wish into the one for single pages.
 */
const source = `
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
int madvise(void *address, size_t length, int advice)
{
    return syscall(SYS_madvise, address, length, advice == MADV_HUGEPAGE ? MADV_RANDOM : advice);
}
`

/** The library, built once where there is a compiler; null elsewhere: lazy memory then works, and fetches more. */
export async function preloadLibrary(directory: string): Promise<string | null> {
  const library = join(directory, 'single-pages.so')
  if (existsSync(library)) return library
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await writeFile(join(directory, 'single-pages.c'), source, { mode: 0o600 })
  const fresh = `${library}.new`
  try {
    await execute('cc', ['-shared', '-fPIC', '-O2', '-o', fresh, join(directory, 'single-pages.c')], {
      timeout: 30_000,
    })
    await rename(fresh, library)
    return library
  } catch {
    return null
  }
}
