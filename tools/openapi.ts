import { readFile, writeFile } from 'node:fs/promises'
import { openApiDocument } from '../src/contract/openapi.ts'

/** Writes the API's description, which is checked in so that a change of the API is seen in review. */
const { version } = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string
}
const text = `${JSON.stringify(openApiDocument({ version }), null, 2)}\n`
await writeFile(new URL('../docs/openapi.json', import.meta.url), text)
