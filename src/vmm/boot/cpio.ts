/** One entry of an initramfs. Directories come before what lies in them. */
export interface CpioEntry {
  /** Without a leading slash. */
  path: string
  /** File type and permissions, as in stat(2). */
  mode: number
  data?: Uint8Array
  /** Of a device node. */
  device?: { major: number; minor: number }
}

/**
 * An archive in the format that Linux unpacks its first file system from ("newc"): a header of 13 numbers in hex, the
 * name, the data, each padded to 4 bytes. https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
 * Nothing of time or owner goes in, so that the same files give the same bytes.
 */
export function cpio(entries: readonly CpioEntry[]): Buffer {
  const parts = entries.flatMap((entry, index) => encode(entry, index + 1))
  return Buffer.concat([...parts, ...encode({ path: 'TRAILER!!!', mode: 0 }, 0)])
}

export function directory(path: string): CpioEntry {
  return { path, mode: 0o040755 }
}

export function file(path: string, data: Uint8Array, permissions = 0o644): CpioEntry {
  return { path, mode: 0o100000 | permissions, data }
}

export function characterDevice(path: string, major: number, minor: number): CpioEntry {
  return { path, mode: 0o020600, device: { major, minor } }
}

function encode({ path, mode, data = new Uint8Array(), device }: CpioEntry, inode: number): Buffer[] {
  const name = Buffer.from(`${path}\0`)
  const fields = [
    ...[inode, mode, 0, 0, 1, 0, data.length],
    ...[0, 0, device?.major ?? 0, device?.minor ?? 0, name.length, 0],
  ]
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
  return [padded(Buffer.concat([header, name])), padded(data)]
}

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)])
}
