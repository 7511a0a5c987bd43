from mvm import app as declare, image, literal
import mvm, os.path
X = f"{os}"
Y = ["a"]; Y.append("b")
if X:
    @mvm.app(name="a")
    class A: ...
@declare(nmae="a", name=X, entrypoint=mvm.entrypoint_command(Y), image=image("a" + "b", **os.environ), env={"A": "secret"})
def f():
    global mvm
declare = mvm.app
