package peer

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const nobody = 65534

// TestMain runs the children, which print what they find.
func TestMain(m *testing.M) {
	proctest.Main(m, map[string]proctest.Job{"dial": childDial, "accept": func(args []string) error {
		fmt.Println(childAccept(args[0]))
		return nil
	}})
}

// childDial stays until its input ends.
func childDial(args []string) error {
	c, err := net.Dial("unix", args[0])
	fmt.Println("connected:", err)
	proctest.UntilInputEnds()
	if err == nil {
		c.Close()
	}
	return nil
}

// childAccept runs inside a user namespace.
func childAccept(path string) string {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err.Error()
	}
	os.Chmod(path, 0o666)
	fmt.Println("listening")
	c, err := l.AcceptUnix()
	if err != nil {
		return err.Error()
	}
	cred, err := OfUnix(c)
	return fmt.Sprintf("uid %d gid %d groups %d pid %t %v, stands for many: %t, root does: %t", cred.UID, cred.GID, cred.Groups, cred.PID > 0, err,
		IsOverflow(cred.UID), IsOverflow(0))
}

func startChild(t *testing.T, attr *syscall.SysProcAttr, job, path string) *proctest.Child {
	t.Helper()
	cmd := proctest.Command(job, path)
	cmd.Dir, cmd.SysProcAttr = "/", attr
	c, err := proctest.Start(t, cmd)
	if err != nil {
		if attr.Cloneflags&unix.CLONE_NEWUSER != 0 {
			proctest.Cannot(t, "no user namespaces: "+err.Error())
		}
		t.Fatal(err)
	}
	return c
}

func as(uid, gid uint32, groups ...uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
}

// inNamespace is root in a user namespace whose only mapped user and group is outer.
func inNamespace(outer int) *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: outer, Size: 1}}
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{NoSetGroups: true}}
}

// connected returns a connection made by a child with attr.
func connected(t *testing.T, attr *syscall.SysProcAttr) (*net.UnixConn, *proctest.Child) {
	t.Helper()
	l, path := listenUnix(t)
	c := startChild(t, attr, "dial", path)
	if got := c.Line(); got != "connected: <nil>" {
		t.Fatal(got)
	}
	return acceptUnix(t, l), c
}

// credentials returns the kernel's credentials of a child that connected.
func credentials(t *testing.T, attr *syscall.SysProcAttr) Credentials {
	t.Helper()
	conn, child := connected(t, attr)
	cred, err := OfUnix(conn)
	if err != nil || int(cred.PID) != child.Cmd.Process.Pid {
		t.Fatalf("pid %d, %v; want %d", cred.PID, err, child.Cmd.Process.Pid)
	}
	return cred
}

func TestOfUnixOtherUsers(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	many := make([]uint32, 1000)
	for i := range many {
		many[i] = uint32(5000 + i)
	}
	for _, c := range []struct {
		uid, gid uint32
		groups   []uint32
	}{
		{nobody, nobody, nil},
		{1001, 1002, []uint32{7}},
		{1001, 0, []uint32{7, 8, 4000000000}},
		{4000000000, 1, []uint32{0}},
		{1001, 1002, many[:31]},
		{1001, 1002, many[:32]}, // exactly the initial space
		{1001, 1002, many[:33]},
		{1001, 1002, many},
	} {
		got := credentials(t, as(c.uid, c.gid, c.groups...))
		if got.UID != c.uid || got.GID != c.gid || !slices.Equal(got.Groups, c.groups) {
			t.Errorf("%+v; want %d, %d, %d", got, c.uid, c.gid, c.groups)
		}
	}
}

// TestPeerGroupsWithoutRoom: peerGroups returns all groups for every initial size.
func TestPeerGroupsWithoutRoom(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	conn, _ := connected(t, as(1001, 1002, 7, 8))
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for room := range 4 {
			if groups, err := peerGroups(int(fd), room); err != nil || !slices.Equal(groups, []uint32{7, 8}) {
				t.Errorf("room for %d: %d, %v", room, groups, err)
			}
		}
	})
}

// TestOfUnixOfAFile: where the kernel reports no credentials, there are none: zero ids would be root's.
func TestOfUnixOfAFile(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if cred, err := ofUnix(int(f.Fd())); err == nil {
		t.Errorf("%+v", cred)
	}
}

// TestOfUnixInUserNamespace: root in a container is not root outside.
func TestOfUnixInUserNamespace(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	for _, outer := range []int{4242, nobody} {
		if got := credentials(t, inNamespace(outer)); int(got.UID) != outer || int(got.GID) != outer {
			t.Errorf("%+v; want %d", got, outer)
		}
	}
}

// TestOfUnixOutsideUserNamespace: inside a namespace all users that it does not map have the same uid, root included.
func TestOfUnixOutsideUserNamespace(t *testing.T) {
	proctest.NeedRoot(t, "be other users")
	for _, outside := range []*syscall.SysProcAttr{as(0, 0, 7), as(1001, 1002, 7, 8)} {
		dir := proctest.Dir(t, 0o755)
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		c := startChild(t, inNamespace(4242), "accept", dir+"/s")
		if got := c.Line(); got != "listening" {
			t.Fatal(got)
		}
		if got := startChild(t, outside, "dial", dir+"/s").Line(); got != "connected: <nil>" {
			t.Fatal(got)
		}
		want := fmt.Sprintf("uid 65534 gid 65534 groups %d pid true <nil>, stands for many: true, root does: false", slices.Repeat([]uint32{65534}, len(outside.Credential.Groups)))
		if got := c.Line(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
