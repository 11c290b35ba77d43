import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseSymbolicMode } from './symbolic-mode.ts'

test('symbolic modes change modes as chmod does', () => {
  const cases: [text: string, mode: number, isDirectory: boolean, expected: number][] = [
    ['u=rwX,go=rX', 0o600, false, 0o644],
    ['u=rwX,go=rX', 0o700, false, 0o755],
    ['u=rwX,go=rX', 0o600, true, 0o755],
    ['a+x', 0o644, false, 0o755],
    ['+x', 0o640, false, 0o751],
    ['go-rwx', 0o777, false, 0o700],
    ['g=u,o=', 0o751, false, 0o770],
    ['u+s,g-w+x', 0o765, false, 0o4755],
    ['u=rw', 0o4755, false, 0o655],
    ['+t', 0o777, true, 0o1777],
  ]
  for (const [text, mode, isDirectory, expected] of cases)
    assert.equal(parseSymbolicMode(text)?.(mode, isDirectory).toString(8), expected.toString(8), text)
  for (const text of ['', 'x', 'u', 'u=q', 'z+x', 'u=r,', '755', 'u+gx'])
    assert.equal(parseSymbolicMode(text), undefined, text)
})
