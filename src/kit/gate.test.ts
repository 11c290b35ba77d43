import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Gate } from './gate.ts'

const { signal } = new AbortController()

test('so many are inside at a time, and the others follow in order', async () => {
  const gate = new Gate({ places: 2, mostWaiting: 10 })
  const order: number[] = []
  let most = 0
  await Promise.all(
    [1, 2, 3, 4, 5].map(async (number) => {
      using _place = await gate.enter({ signal })
      most = Math.max(most, gate.inside)
      order.push(number)
      await new Promise((resolve) => setImmediate(resolve))
    }),
  )
  assert.deepEqual(order, [1, 2, 3, 4, 5])
  assert.equal(most, 2)
  assert.equal(gate.inside, 0)
})

test('who would wait too long is told at once', async () => {
  const gate = new Gate({ places: 1, mostWaiting: 1 })
  const first = await gate.enter({ signal })
  const second = gate.enter({ signal })
  assert.equal(await gate.enter({ signal }), undefined)
  first?.[Symbol.dispose]()
  assert.ok(await second)
})

test('who stops waiting takes no place, and whoever is aborted twice frees one only once', async () => {
  const gate = new Gate({ places: 1, mostWaiting: 5 })
  const first = await gate.enter({ signal })
  const impatient = new AbortController()
  const second = gate.enter({ signal: impatient.signal })
  const third = gate.enter({ signal })
  impatient.abort(new Error('enough'))
  await assert.rejects(second, /enough/)
  first?.[Symbol.dispose]()
  first?.[Symbol.dispose]()
  const place = await third
  assert.equal(gate.inside, 1)
  place?.[Symbol.dispose]()
  assert.equal(gate.inside, 0)
})
