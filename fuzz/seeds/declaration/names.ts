import mvm, { app as declare, image, type literal } from '@mvm/sdk';
import * as m from "@mvm/sdk";
const X = `${1}`, Y = ['a', , "b"], { app } = m;
if (X) { m.app({ name: 'a' })(f) }
export default declare({ nmae: 'a', X, ...Y, [X]: 1, image: image(X ? 'a' : "b"), env: { A: 'secret' } })(() => mvm.app);
@m.app({}) class A { static { Y.push("\ud83d\ude00") } }
