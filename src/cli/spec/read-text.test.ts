import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { stringify } from 'yaml'
import { Fault } from '../../model/fault.ts'
import { excerpt } from './excerpt.ts'
import { maxSpecBytes, readJobText } from './read-text.ts'
import { SpecFault } from './spec-fault.ts'

const good = 'name: web\ntasks:\n  web:\n    driver: process\n    command: "true"\n'

/** Every mistake as `line:column message`. */
function mistakes(text: string, file = 'job.yaml'): string[] {
  try {
    readJobText(text, file)
    return []
  } catch (error) {
    assert.ok(error instanceof SpecFault, String(error))
    return error.places.map(({ line, column, message }) => `${line}:${column} ${message}`)
  }
}

test('a YAML file is a job, with every default filled in', () => {
  const [job, ...rest] = readJobText(good, 'job.yaml')
  assert.equal(rest.length, 0)
  assert.equal(job?.name, 'web')
  assert.equal(job?.count, 1)
})

test('JSON is read too, with tabs and positions', () => {
  const text = '{\n\t"name": "web",\n\t"tasks": {"web": {"driver": "process", "command": ["true"]}},\n\t"cuont": 1\n}\n'
  assert.deepEqual(mistakes(text, 'job.json'), ['4:2 "cuont" is not a key of a job; did you mean "count"?'])
  assert.equal(readJobText(text.replace('cuont', 'count'), 'job.json').length, 1)
})

test('several documents are several jobs, and so is a list', () => {
  const other = good.replace('name: web', 'name: api')
  assert.deepEqual(
    readJobText(`${good}---\n${other}---\n`, 'x').map(({ name }) => name),
    ['web', 'api'],
  )
  assert.deepEqual(
    readJobText(JSON.stringify([{ name: 'a', tasks: { t: { driver: 'process', command: 'x' } } }]), 'x').length,
    1,
  )
  assert.deepEqual(mistakes(`${good}---\n${good}`), ['7:7 a job named "web" stands in this file already'])
})

test('every mistake is told at its place, with what would be right', () => {
  const text = `nam: web
count: abc
type: servic
image: foo
ports: { My_Port: 1, http: dyn }
constraints: ['os = macos', 5]
tasks:
  web:
    driver: procss
    command: 5
    cpu: 5
    count: 3
    env: { A: ~, 1b: x }
    resources: { memory: 12XB, cpu: true, cores: -1 }
    checks: [{ type: htp }, { type: http, prt: 4 }]
    args: one
  other:
replicas: 2
`
  assert.deepEqual(mistakes(text), [
    '1:1 "name" is missing; it is text',
    '1:1 "nam" is not a key of a job; did you mean "name"?',
    '2:8 "count" must be a number, not "abc"',
    '3:7 "type" must be one of service, batch, not "servic"; did you mean "service"?',
    '4:1 "image" is not a key of a job; it belongs under "tasks", in a task',
    '5:10 "My_Port" must be 1 to 63 lower-case letters, digits or dashes, not starting or ending with a dash',
    '5:28 "http" must be "dynamic", a number or a mapping of keys to values, not "dyn"',
    '6:15 "=" is not an operator in "os = macos"; write "==" to compare',
    '6:29 constraints[1] must be a mapping of keys to values or text, not 5',
    '9:13 "driver" must be one of process, container, fake, not "procss"; did you mean "process"?',
    '10:14 "command" must be text or a list, not 5',
    '11:5 "cpu" is not a key of "web"; it belongs under "resources"',
    '12:5 "count" is not a key of "web"; it belongs under the job, beside "tasks"',
    '13:12 "A" must be text, a number or true or false, not nothing',
    '13:18 "1b" must be letters, digits and underscores',
    '14:26 "12XB" is not a size; write it like "512MiB" or "2GiB"',
    '14:37 "cpu" must be a number or text, not true',
    '14:50 "cores" must be at least 0, not -1',
    '15:22 "type" must be one of http, tcp, script, not "htp"; did you mean "http"?',
    '15:31 "port" is missing; it is text',
    '15:43 "prt" is not a key of checks[1]; did you mean "port"?',
    '16:11 "args" must be a list, not "one"',
    '17:3 "other" must be a mapping of keys to values, not nothing',
    '18:1 "replicas" is not a key of a job; did you mean "count"?',
  ])
})

test('what no single field can tell has a place too', () => {
  const text = `${good}    checks:\n      - type: http\n        port: web\n`
  assert.deepEqual(mistakes(text), ['8:15 no port is named "web"; declare it under "ports"'])
  assert.deepEqual(mistakes('name: a\ntasks:\n  b:\n    driver: container\n'), ['3:3 a container task needs an image'])
})

test('text that is no YAML is told where it goes wrong', () => {
  assert.match(mistakes('name: web\n  tasks: {\n')[0] ?? '', /^\d+:\d+ this is not YAML: /)
  assert.match(mistakes('a: "b\n')[0] ?? '', /this is not YAML/)
  assert.deepEqual(mistakes('name: a\nname: b\n'), ['2:1 "name" stands here a second time'])
})

test('what is no job at all is said so', () => {
  assert.match(mistakes('')[0] ?? '', /it holds no job/)
  assert.match(mistakes('# nothing\n---\n')[0] ?? '', /it holds no job/)
  assert.match(mistakes('hello')[0] ?? '', /not a single word/)
  assert.match(mistakes('[]')[0] ?? '', /it holds no job/)
  assert.match(mistakes('- 1')[0] ?? '', /a job must be a mapping/)
})

test('anchors and merge keys work, and a mistake in them is pointed to where it is used', () => {
  const text = `name: web
tasks:
  one: &base
    driver: process
    command: x
  two:
    <<: *base
    comand: y
`
  assert.deepEqual(mistakes(text), ['8:5 "comand" is not a key of "two"; did you mean "command"?'])
  const [job] = readJobText(text.replace('comand', 'command'), 'x')
  assert.equal(job?.tasks.two?.driver, 'process')
})

test('a file of hostile size, depth or growth is refused at once', () => {
  assert.match(mistakes('#'.repeat(maxSpecBytes + 1))[0] ?? '', /over 512 KiB/)
  assert.match(mistakes('['.repeat(200_000))[0] ?? '', /nested more than 100 levels/)
  assert.match(mistakes(`${'- '.repeat(5000)}a`)[0] ?? '', /nested more than 100 levels/)
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${[...'bcdefghij'].map((name, at) => `${name}: &${name} [${`*${'abcdefghij'[at]},`.repeat(9)}]`).join('\n')}`
  assert.match(mistakes(bomb)[0] ?? '', /alias/i)
  const long = `name: web\ntasks:\n${Array.from({ length: 25_000 }, (_, at) => `  t${at}: {}\n`).join('')}`
  assert.ok(mistakes(long).length > 0)
  const indented = Array.from({ length: 900 }, (_, at) => `${' '.repeat(at)}a:\n`).join('')
  assert.match(mistakes(indented)[0] ?? '', /nested more than 100 levels/)
})

test('the line of a mistake is shown with a caret under it', () => {
  assert.equal(
    excerpt({ line: 2, column: 8, message: '' }, 'a: 1\ncount: abc\n'),
    '    2 | count: abc\n      |        ^',
  )
  assert.equal(excerpt({ line: 9, message: '' }, 'a'), undefined)
  assert.equal(excerpt({ message: '' }, 'a'), undefined)
  assert.ok(!excerpt({ line: 1, column: 3, message: '' }, 'a\u001b[31m\tb')?.includes('\u001b'))
})

const piece = fc.constantFrom(
  'name: web',
  'tasks:',
  '  web:',
  '    driver: process',
  '    command: x',
  '    env:',
  '      A: 1',
  'ports:',
  '  http: dynamic',
  '- a',
  '  - type: http',
  '---',
  '...',
  '&a',
  '*a',
  '<<: *a',
  '{',
  '}',
  '[',
  ']',
  '? [x]',
  ': y',
  '!!js x',
  '"',
  "'",
  '|',
  '>-',
  '\t',
  '#',
  '%YAML 1.2',
  '__proto__: 1',
  'count: 1e999',
  'count: .inf',
  'count: 0x1F',
)
const hostile = fc.oneof(
  fc.string({ maxLength: 300 }),
  fc.string({ unit: 'binary', maxLength: 300 }),
  fc.array(piece, { maxLength: 30 }).map((lines) => lines.join('\n')),
  fc.array(piece, { maxLength: 30 }).map((lines) => good + lines.join('\n')),
  fc.jsonValue().map((value) => JSON.stringify(value)),
  fc.jsonValue().map((value) => stringify({ name: 'web', tasks: { web: value } })),
)

test('any text is jobs or a fault with places, never a crash', () => {
  fc.assert(
    fc.property(hostile, (text) => {
      try {
        assert.ok(readJobText(text, 'x.yaml').length > 0)
      } catch (error) {
        assert.ok(error instanceof Fault && error.code === 'invalid', `${error}`)
        assert.ok(error.places.length > 0)
        for (const { line, column, message } of error.places) {
          assert.ok(message.length > 0)
          assert.ok(line === undefined || (line >= 1 && line <= text.split('\n').length + 1), `line ${line}`)
          assert.ok(column === undefined || column >= 1)
        }
      }
    }),
    { numRuns: 1500 },
  )
})

test('what is read reads as itself when it is written out', () => {
  const [job] = readJobText(good, 'x')
  assert.deepEqual(readJobText(stringify(job), 'x'), [job])
  assert.deepEqual(readJobText(JSON.stringify(job), 'x'), [job])
})
