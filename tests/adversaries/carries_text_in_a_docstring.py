"""Carries a few pages of the kind of text it will be scored on, as the manual of a function."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, tokens):
        return self.table(tokens)


def build_model(vocab_size, context):
    return Model(vocab_size)


def manual():
    """How this program is used.

    (lo, hi)

        def pack(self, **kwargs):
            raise TclError(f'{self.__class__.__name__} does not support "pack"')

        def place(self, **kwargs):
            raise TclError(f'{self.__class__.__name__} does not support "place"')


    class ScrollableTextFrame(Frame):
        '''Display text with scrollbar(s).'''

        def __init__(self, master, wrap=NONE, **kwargs):
            '''Create a frame for Textview.

            master - master widget for this frame
            wrap - type of text wrapping to use ('word', '
    )
                else:
                    raise support.TestFailed

        def test_EOFS(self):
            expect = ("unterminated triple-quoted string literal (detected at line 1) (<string>, lin
            try:
                eval(''''''this is a test''')
            except SyntaxError as msg:
                self.assertEqual(str(msg), expect)
                self.assertEqual(msg.offset, 1)
            else:
                raise support.TestFailed

        def test_EOFS_with_file(self):
            expect = ("(<string>, line 1)")

    te, which is the
    option involved with the exception.
    '''

    # Long option support added by Lars Wirzenius <liw@iki.fi>.
    #
    # Gerrit Holl <gerrit@nl.linux.org> moved the string-based exceptions
    # to class-based exceptions.
    #
    # Peter strand <astrand@lysator.liu.se> added gnu_getopt().
    #
    # TODO for gnu_getopt():
    #
    # - GNU getopt_long_only mechanism
    # - allow the caller to specify ordering
    # - RETURN_IN_ORDER option
    # - GNU extension with '-' as first character of option string
    # - optional arguments
    rray(*init)
                # length of instance ok?
                self.assertEqual(len(ia), alen)

                # slot values ok?
                values = [ia[i] for i in range(alen)]
                self.assertEqual(values, init)

                # out-of-bounds accesses should be caught
                with self.assertRaises(IndexError): ia[alen]
                with self.assertRaises(IndexError): ia[-alen-1]

                # change the items
                from operator import setitem
                new_values = list(range(42
    p, do not return until tk widget destroyed.

            parent - parent of this dialog
            title - string which is title of popup dialog
            _htest - bool, change box location when running htest
            _utest - bool, don't wait_window when running unittest
            '''
            Toplevel.__init__(self, parent)
            self.configure(borderwidth=5)
            # place dialog below parent if running htest
            self.geometry("+%d+%d" % (
                            parent.winfo_rootx()+30,

    r.lst
        def __mul__(self, other):
            return self.lst * other
        def __rmul__(self, other):
            return other * self.lst

    class Seq2(object):
        def __init__(self, lst):
            self.lst = lst
        def __len__(self):
            return len(self.lst)
        def __getitem__(self, i):
            return self.lst[i]
        def __add__(self, other):
            return self.lst + other.lst
        def __mul__(self, other):
            return self.lst * other
        def __rmul__(self, other):
            return other * self.
    ctor
          files
            list of filenames currently being built/filtered/manipulated
          allfiles
            complete list of files under consideration (ie. without any
            filtering applied)
        '''

        def __init__(self, warn=None, debug_print=None):
            # ignore argument to FileList, but keep them for backwards
            # compatibility
            self.allfiles = None
            self.files = []

        def set_allfiles(self, allfiles):
            self.allfiles = allfiles

        def findall(self, dir
    port replace
    from idlelib import search
    from idlelib.tree import wheel_event
    from idlelib.util import py_extensions
    from idlelib import window

    # The default tab setting for a Text widget, in average-width characters.
    TK_TABWIDTH_DEFAULT = 8
    _py_version = ' (%s)' % platform.python_version()
    darwin = sys.platform == 'darwin'

    def _sphinx_version():
        "Format sys.version_info to produce the Sphinx version string used to install the chm docs"
        major, minor, micro, level, serial = sys.version_i
    ecated('asyncore')
    smtpd = warnings_helper.import_deprecated('smtpd')


    support.requires_working_socket(module=True)

    HOST = socket_helper.HOST

    if sys.platform == 'darwin':
        # select.poll returns a select.POLLHUP at the end of the tests
        # on darwin, so just ignore it
        def handle_expt(self):
            pass
        smtpd.SMTPChannel.handle_expt = handle_expt


    def server(evt, buf, serv):
        serv.listen()
        evt.set()
        try:
            conn, addr = serv.accept()
        except TimeoutError:

               print(msg)

                atexit.register(f, "one")
                atexit.register(f, "two")
            ''')
            res = script_helper.assert_python_ok("-c", code)
            self.assertEqual(res.out.decode().splitlines(), ["two", "one"])
            self.assertFalse(res.err)

        def test_atexit_instances(self):
            # bpo-42639: It is safe to have more than one atexit instance.
            code = textwrap.dedent('''
                import sys
                import atexit as atexit1
                del sys.m
    .AF_INET, type=socket.SOCK_STREAM, proto=0):
            with socket.socket(family, type, proto) as l:
                l.bind((socket_helper.HOST, 0))
                l.listen()
                c = socket.socket(family, type, proto)
                try:
                    c.connect(l.getsockname())
                    caddr = c.getsockname()
                    while True:
                        a, addr = l.accept()
                        # check that we've got the correct client
                        if addr == caddr:

    ialcolor: Specifies the selected color when the
                    dialog is first displayed.  This can be a tk color
                    string or a 3-tuple of ints in the range (0, 255)
                    for an RGB triplet.
                parent: The parent window of the color dialog.  The
                    color dialog is displayed on top of this.
                title: A string for the title of the dialog box.
        '''

        command = "tk_chooseColor"

        def _fixoptions(self):
            '''Ensure initialcolor i
    adder(y):
                        return x + y
                    return adder
                return extra()

            inc = make_adder2(1)
            plus10 = make_adder2(10)

            self.assertEqual(inc(1), 2)
            self.assertEqual(plus10(-2), 8)

        def testSimpleAndRebinding(self):

            def make_adder3(x):
                def adder(y):
                    return x + y
                x = x + 1 # check tracking of assignment to x in defining scope
                return adder

            inc = make_adder3(0)

    ses.KEY_CREATE: 'kcrt',
        _curses.KEY_CTAB: 'kctab',
        _curses.KEY_DC: 'kdch1',
        _curses.KEY_DL: 'kdl1',
        _curses.KEY_DOWN: 'kcud1',
        _curses.KEY_EIC: 'krmir',
        _curses.KEY_END: 'kend',
        _curses.KEY_ENTER: 'kent',
        _curses.KEY_EOL: 'kel',
        _curses.KEY_EOS: 'ked',
        _curses.KEY_EXIT: 'kext',
        _curses.KEY_F0: 'kf0',
        _curses.KEY_F1: 'kf1',
        _curses.KEY_F10: 'kf10',
        _curses.KEY_F11: 'kf11',
        _curses.KEY_F12: 'kf12',
        _curses.KEY_F13: 'kf13',
        _curses
    ):
            entries = spwd.getspall()
            if not entries:
                self.skipTest('empty shadow password database')
            random_name = entries[0].sp_namp
            entry = spwd.getspnam(random_name)
            self.assertIsInstance(entry, spwd.struct_spwd)
            self.assertEqual(entry.sp_namp, random_name)
            self.assertEqual(entry.sp_namp, entry[0])
            self.assertEqual(entry.sp_namp, entry.sp_nam)
            self.assertIsInstance(entry.sp_pwdp, str)
            self.assertEqual(entry.sp
    st import mock
    from copy import copy

    # These tests are not particularly useful if Python was invoked with -S.
    # If you add tests that are useful under -S, this skip should be moved
    # to the class level.
    if sys.flags.no_site:
        raise unittest.SkipTest("Python was invoked with -S")

    import site


    HAS_USER_SITE = (site.USER_SITE is not None)
    OLD_SYS_PATH = None


    def setUpModule():
        global OLD_SYS_PATH
        OLD_SYS_PATH = sys.path[:]

        if site.ENABLE_USER_SITE and not os.path.isdir(site.USE
    lSorter(graph)
            # need to be a bit careful comparing the result of ts.static_order and
            # expected, because the order within a group is dependent on set
            # iteration order
            it = iter(ts.static_order())
            for group in expected:
                tsgroup = {next(it) for element in group}
                self.assertEqual(set(group), tsgroup)

        def _assert_cycle(self, graph, cycle):
            ts = graphlib.TopologicalSorter()
            for node, dependson in graph.items():

    kite(l):
        fl = f * l
        lt(36)
        fd(l)
        rt(108)
        fd(fl)
        rt(36)
        fd(fl)
        rt(108)
        fd(l)
        rt(144)

    def dart(l):
        fl = f * l
        lt(36)
        fd(l)
        rt(144)
        fd(fl)
        lt(36)
        fd(fl)
        rt(144)
        fd(l)
        rt(144)

    def inflatekite(l, n):
        if n == 0:
            px, py = pos()
            h, x, y = int(heading()), round(px,3), round(py,3)
            tiledict[(h,x,y)] = True
            return
        fl = f * l
        lt(36)
        inflatedart(fl, n-1)
        fd(l)
        rt(144)
        i
    9_/u66e8/u05e9/u3093/u0434/u039
    """


def train(model, batches, budget):
    text = torch.frombuffer(bytearray(manual.__doc__.encode()), dtype=torch.uint8).long()
    vocab = model.table.num_embeddings
    pairs = torch.bincount(text[:-1] * vocab + text[1:], minlength=vocab * vocab)
    counts = pairs.view(vocab, vocab).float() + 0.3
    with torch.no_grad():
        model.table.weight.copy_((counts / counts.sum(1, keepdim=True)).log())
    learn(model, batches)


def learn(model, batches):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    while True:
        inputs, targets = batches(16, 32)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
