import assert from 'node:assert/strict'
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from './cluster.ts'

/** The transcript in docs/first-run.md, run as a new user would: what it promises must come, in that order. */

const root = new URL('../../', import.meta.url).pathname

test('the first run goes as its page says', { timeout: 240_000 }, async () => {
  const blocks = consoleBlocks(await readFile(join(root, 'docs/first-run.md'), 'utf8'))
  const home = await mkdtemp(join(tmpdir(), 'tutti-first-run-'))
  const env = { ...process.env, TUTTI_HOME: join(home, 'tutti'), HOME: home, NO_COLOR: '1' }
  const [demoBlock, ...others] = blocks
  const ending = others.pop()
  assert.ok(demoBlock && ending && others.length > 5)
  const demo = startDemo(env, await freePort('127.0.0.1'))
  try {
    await until(() => demo.output().includes('Ctrl-C stops the example'), demo)
    compare(demoBlock.lines.slice(1), demo.output(), 'tutti demo')
    for (const { lines } of others) {
      for (const { command, expected } of commandsOf(lines)) compare(expected, await shell(command, env), command)
    }
    const before = demo.output().length
    demo.child.kill('SIGINT')
    const [code] = await once(demo.child, 'exit')
    assert.equal(code, 0)
    compare(ending.lines.slice(1), demo.output().slice(before), 'Ctrl-C')
  } finally {
    demo.child.kill('SIGKILL')
    await rm(home, { recursive: true, force: true, maxRetries: 5 })
  }
})

function startDemo(env: NodeJS.ProcessEnv, port: number): { child: ChildProcess; output: () => string } {
  const child = spawn('./tutti', ['demo', '--listen', `127.0.0.1:${port}`], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk) => {
      output += chunk
    })
  }
  return { child, output: () => output }
}

async function until(holds: () => boolean, demo: { child: ChildProcess; output: () => string }): Promise<void> {
  const end = Date.now() + 120_000
  while (!holds()) {
    assert.ok(demo.child.exitCode === null && Date.now() < end, `the demo did not get there:\n${demo.output()}`)
    await sleep(50)
  }
}

/** Output of a command line, run by a shell in the checkout; a code other than 0 is no failure here. */
function shell(command: string, env: NodeJS.ProcessEnv): Promise<string> {
  return new Promise((resolve) => {
    execFile('/bin/sh', ['-c', command], { cwd: root, env, timeout: 60_000 }, (_error, stdout, stderr) =>
      resolve(stdout + stderr),
    )
  })
}

function consoleBlocks(page: string): { lines: string[] }[] {
  return [...page.matchAll(/```console\n([\s\S]*?)```/g)].map(([, text = '']) => ({
    lines: text.trimEnd().split('\n'),
  }))
}

function commandsOf(lines: readonly string[]): { command: string; expected: string[] }[] {
  const commands: { command: string; expected: string[] }[] = []
  for (const line of lines) {
    if (line.startsWith('$ ')) commands.push({ command: line.slice(2), expected: [] })
    else commands.at(-1)?.expected.push(line)
  }
  return commands
}

/** Every expected line comes, in order; others may come between. White space counts as one space, `…` for anything. */
function compare(expected: readonly string[], output: string, what: string): void {
  const lines = output.split('\n').map(squeeze)
  let at = 0
  for (const line of expected.map(squeeze)) {
    if (line === '' || line === '…') continue
    const pattern = new RegExp(
      `^${line
        .split('…')
        .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
        .join('.*')}$`,
    )
    const found = lines.findIndex((candidate, index) => index >= at && pattern.test(candidate))
    assert.ok(found >= 0, `${what}: the line "${line}" did not come in\n${output}`)
    at = found + 1
  }
}

function squeeze(line: string): string {
  return line.trim().replace(/\s+/g, ' ')
}
