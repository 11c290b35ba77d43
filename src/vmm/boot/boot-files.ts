import { Fault } from '../../model/fault.ts'
import { makeInitramfs } from './initramfs.ts'
import { type FindKernelOptions, findKernel, kernelRemedy } from './kernel.ts'
import { unpackKernel } from './vmlinux.ts'

export interface BootFilesOptions extends FindKernelOptions {
  /** The guest agent's program for this architecture. */
  init: string
  /** Where the initramfs is kept. */
  directory: string
  modules?: readonly string[]
}

/** What a machine boots from; made once and found again. Rejects with a Fault `unavailable` when there is no kernel. */
export async function bootFiles(options: BootFilesOptions): Promise<{ kernel: string; initrd: string }> {
  const kernel = await findKernel(options)
  if (kernel === undefined)
    throw new Fault(
      'unavailable',
      `no Linux kernel for ${options.arch} guests was found; ${kernelRemedy(options.arch)}`,
    )
  const initrd = await makeInitramfs({ ...options, kernel })
  // One packed in a way that we do not know still unpacks itself.
  const unpacked = await unpackKernel(kernel.path, options.directory).catch(() => kernel.path)
  return { kernel: unpacked, initrd }
}
