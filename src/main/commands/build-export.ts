import { Fault } from '../../model/fault.ts'
export async function run(): Promise<number> {
  throw new Fault('internal', 'x')
}
