import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { parseAddress, parseCidr } from '../../../model/egress.ts'
import { Fault } from '../../../model/fault.ts'
import { type Block, blocksOf } from './layout.ts'
import { runScript } from './script.ts'

/**
 * Several agents may live on one machine, and each needs addresses of its own. A block of the pool belongs to the directory
 * that is written in its claim, a file that is gone after a reboot like everything it stands for. A claim of a directory
 * that no longer exists is nobody's.
 */
const claims = '/run/tutti/network'

export async function claimBlock(pool: string, directory: string): Promise<Block> {
  await mkdir(claims, { recursive: true, mode: 0o700 })
  const blocks = blocksOf(pool)
  const mine = await Promise.all(blocks.map(async (block) => (await ownerOf(block)) === directory))
  const kept = blocks.find((_, index) => mine[index])
  if (kept !== undefined) return kept
  const taken = await routesHere()
  for (const block of blocks) {
    if (taken.some((cidr) => overlaps(cidr, block.cidr))) continue
    if (await claim(block, directory)) return block
  }
  throw new Fault(
    'exhausted',
    `no addresses are left for sandboxes in ${pool}: every block is in use on this machine; name another pool`,
  )
}

export async function releaseBlock(block: Block): Promise<void> {
  await rm(claimOf(block), { force: true })
}

const claimOf = (block: Block) => join(claims, block.cidr.replace('/', '-'))

async function claim(block: Block, directory: string): Promise<boolean> {
  const file = claimOf(block)
  const isNew = await writeFile(file, directory, { flag: 'wx' }).then(
    () => true,
    () => false,
  )
  if (isNew) return true
  const owner = await ownerOf(block)
  const isAlive = owner !== undefined && (await stat(owner).catch(() => undefined)) !== undefined
  if (owner === undefined || isAlive) return false
  // Whoever moves the dead claim away may claim anew; a claim that changed meanwhile goes back.
  const aside = `${file}.${process.pid}`
  await rename(file, aside).catch(() => {})
  const moved = await readFile(aside, 'utf8').catch(() => undefined)
  if (moved !== undefined && moved !== owner) await rename(aside, file)
  await rm(aside, { force: true })
  return moved === owner && claim(block, directory)
}

async function ownerOf(block: Block): Promise<string | undefined> {
  return readFile(claimOf(block), 'utf8').catch(() => undefined)
}

/** Networks that the machine already knows a way to, the default aside. */
async function routesHere(): Promise<string[]> {
  const listed = JSON.parse((await runScript('exec ip -j -4 route show table all', 'listing routes')) || '[]') as {
    dst?: string
    dev?: string
  }[]
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list?.map((entry) => entry.address) ?? [])
  return [...listed.flatMap(({ dst }) => (dst === undefined || dst === 'default' ? [] : [dst])), ...addresses]
}

function overlaps(one: string, other: string): boolean {
  const [a, b] = [parseCidr(one), parseCidr(other)]
  return (
    a !== undefined && b !== undefined && a.first <= b.last && b.first <= a.last && parseAddress('0.0.0.0') !== a.last
  )
}
