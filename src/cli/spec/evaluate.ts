import { writeSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { extname } from 'node:path'
import { pathToFileURL } from 'node:url'

/**
 * The process that runs one job file: imports it and writes what it exports to file descriptor 3, as JSON. A program of
 * its own, so that whatever the file does (loop, exit, print) is done to nobody else.
 */
export type Evaluated =
  | { jobs: { value: unknown; line?: number }[] }
  | { error: { message: string; line?: number; column?: number } }

const helper = new URL(`../../client/job${extname(import.meta.url)}`, import.meta.url).href

registerHooks({
  resolve: (name, context, next) => (name === 'tutti' ? { url: helper, shortCircuit: true } : next(name, context)),
})

const file = process.argv[2] ?? ''
// Standard output belongs to the command that asked.
process.stdout.write = process.stderr.write.bind(process.stderr)
writeSync(3, JSON.stringify(await evaluate(pathToFileURL(file).href)))
process.exit(0)

async function evaluate(url: string): Promise<Evaluated> {
  try {
    const exports: Record<string, unknown> = await import(url)
    const { placeOf } = await import(helper)
    const values = await Promise.all(
      Object.values(exports).flatMap((value) => (Array.isArray(value) ? value : [value])),
    )
    const objects = [...new Set(values.filter((value) => typeof value === 'object' && value !== null))]
    // Exports come in the order of their names; jobs in that in which they are written.
    const jobs: { value: unknown; line?: number }[] = objects.map((value) => ({ value, ...placeOf(value) }))
    return { jobs: jobs.sort((a, b) => (a.line ?? 0) - (b.line ?? 0)) }
  } catch (error) {
    return { error: { message: messageOf(error), ...placeIn(error, url) } }
  }
}

function messageOf(error: unknown): string {
  const { name, message } = error instanceof Error ? error : new Error(String(error))
  return `it fails when it is run: ${name}: ${message.split('\n')[0]}`
}

/** The first place in the file itself that the error names. */
function placeIn(error: unknown, url: string): { line: number; column?: number } | undefined {
  const stack = error instanceof Error ? `${error.stack}` : ''
  const plain = decodeURIComponent(new URL(url).pathname)
  for (const name of [url, plain]) {
    const at = stack.indexOf(`${name}:`)
    const match = at < 0 ? undefined : /^:(\d+)(?::(\d+))?/.exec(stack.slice(at + name.length))
    if (match) return { line: Number(match[1]), ...(match[2] === undefined ? {} : { column: Number(match[2]) }) }
  }
  return undefined
}
