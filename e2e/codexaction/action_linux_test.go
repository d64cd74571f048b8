package codexaction

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const (
	key      = "sk-made-up-for-codex-action-0123456789"
	runner   = 20001 // has no name, and no home
	agent    = 20002
	stranger = 20003
)

func TestMain(m *testing.M) { proctest.Main(m, nil) }

// setup is a job with our two actions, copied to where every user can read them, and an upstream.
type setup struct {
	*job
	program     string // which every user can run
	start, stop *action
	up          *openaitest.Server
}

func newSetup(t *testing.T, tools ...string) *setup {
	t.Helper()
	proctest.NeedRoot(t, "runs steps as other users")
	up, err := openaitest.Start(openaitest.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	dir := filepath.Join(newDir(t, 0), "codex-action")
	if err := os.CopyFS(dir, os.DirFS("../../contrib/codex-action")); err != nil {
		t.Fatal(err)
	}
	program := proctest.Program(t, "../../cmd/responses-api-proxy")
	return &setup{newJob(t, runner, tools...), program, readAction(t, dir), readAction(t, filepath.Join(dir, "stop")), up}
}

// with returns inputs for a program that is there.
func (s *setup) with(more ...string) map[string]string {
	inputs := map[string]string{"openai-api-key": key, "binary": s.program, "upstream-url": s.up.URL()}
	for i := 0; i < len(more); i += 2 {
		inputs[more[i]] = more[i+1]
	}
	return inputs
}

// begin starts a proxy, which ends with the test.
func (s *setup) begin(inputs map[string]string) (outputs map[string]string) {
	s.Helper()
	outputs, printed, err := s.use(s.start, inputs)
	if err != nil || outputs["base-url"] != "http://127.0.0.1:"+outputs["port"]+"/v1" {
		s.Fatalf("%v, base URL %q", err, outputs["base-url"])
	}
	if strings.Contains(printed, key) {
		s.Error("the step prints the key")
	}
	s.Cleanup(func() { s.end(outputs) })
	return outputs
}

// end stops a proxy, and returns what the step adds to the job's summary.
func (s *setup) end(outputs map[string]string) (summary string) {
	s.Helper()
	before, _ := os.ReadFile(s.summary)
	if _, _, err := s.use(s.stop, map[string]string{"directory": outputs["directory"]}); err != nil {
		s.Errorf("the stop step fails: %v", err)
	}
	if _, err := os.Lstat(outputs["server-info"]); err == nil {
		s.Error("server-info is left behind")
	}
	after, _ := os.ReadFile(s.summary)
	return strings.TrimPrefix(string(after), string(before))
}

func (s *setup) wantCall(uid int, port, status string) {
	s.Helper()
	if got := s.call(uid, port); got != status {
		s.Errorf("uid %d gets %s on port %s, want %s", uid, got, port, status)
	}
}

// fails runs the start action, which must fail with an error that GitHub shows and that has all the texts.
func (s *setup) fails(inputs map[string]string, env []string, texts ...string) {
	s.Helper()
	outputs, printed, err := s.use(s.start, inputs, env...)
	if err == nil {
		s.end(outputs)
		s.Fatalf("%q starts", inputs)
	}
	_, shown, _ := strings.Cut(printed, "::error title=responses-api-proxy::")
	shown, _, _ = strings.Cut(shown, "\n")
	for _, text := range texts {
		if !strings.Contains(shown, text) {
			s.Errorf("the error %q lacks %q", shown, text)
		}
	}
}

// pid is that of server-info.
func (s *setup) pid(outputs map[string]string) int {
	s.Helper()
	text, _ := os.ReadFile(outputs["server-info"])
	_, after, _ := strings.Cut(string(text), `"pid":`)
	pid, err := strconv.Atoi(strings.TrimSuffix(after, "}\n"))
	if err != nil {
		s.Fatalf("server-info has no pid: %q", text)
	}
	return pid
}

// TestTwoUsers runs the agent as another user than the runner.
func TestTwoUsers(t *testing.T) {
	s := newSetup(t)
	out := s.begin(s.with("callers", fmt.Sprint(agent), "max-tokens", "25", "flags", "--allow-route\n  compact"))
	pid := s.pid(out)
	if session, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); !strings.Contains(string(session), fmt.Sprintf(" %d %d ", pid, pid)) {
		t.Errorf("the proxy has no session of its own: %s", session)
	}
	s.wantCall(stranger, out["port"], "403")
	s.wantCall(runner, out["port"], "403")
	for range 5 { // until the budget is spent
		s.call(agent, out["port"])
	}
	s.wantCall(agent, out["port"], "429")
	if !s.can(agent, "cat "+out["server-info"]) {
		t.Error("the agent cannot read server-info")
	}
	for _, file := range []string{out["directory"] + "/audit.jsonl", out["directory"] + "/proxy.log", fmt.Sprintf("/proc/%d/environ", pid)} {
		if s.can(agent, "cat "+file) {
			t.Errorf("the agent can read %s", file)
		}
	}
	if s.can(agent, fmt.Sprintf("kill %d", pid)) || s.can(agent, "rm "+out["server-info"]) {
		t.Error("the agent can stop the proxy, or take its place")
	}
	s.noKey()
	spent := len(s.up.Requests())
	summary := s.end(out)
	for _, line := range []string{
		fmt.Sprintf("| %d | %d | ", 8, 8-spent), "| model | requests |", fmt.Sprintf(" | %d | ", spent), "| user_not_allowed | 2 |", "| budget_exhausted | ",
	} {
		if spent == 0 || !strings.Contains(summary, line) {
			t.Errorf("the summary lacks %q:\n%s", line, summary)
		}
	}
	s.wantCall(agent, out["port"], "000")
	s.noKey()
}

// noKey fails if a file of the job, or the environment or the arguments of a process, has the key.
func (s *setup) noKey() {
	s.Helper()
	filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if text, _ := os.ReadFile(path); bytes.Contains(text, []byte(key)) {
			s.Errorf("%s has the key", path)
		}
		return nil
	})
	files, _ := filepath.Glob("/proc/[0-9]*/[ce][mn][dv][li]*") // cmdline and environ
	for _, path := range files {
		if text, _ := os.ReadFile(path); bytes.Contains(text, []byte(key)) {
			s.Errorf("%s has the key", path)
		}
	}
}

// TestSameUser runs the agent with the runner's uid, as with drop-sudo.
func TestSameUser(t *testing.T) {
	s := newSetup(t)
	out := s.begin(s.with("max-requests", "3"))
	s.wantCall(runner, out["port"], "200")
	s.wantCall(agent, out["port"], "403")
	for _, file := range []string{"mem", "environ", "maps"} {
		if s.can(runner, fmt.Sprintf("exec 3</proc/%d/%s && head -c 1 <&3", s.pid(out), file)) {
			t.Errorf("the agent can read the proxy's %s", file)
		}
	}
	s.noKey()
	if summary := s.end(out); !strings.Contains(summary, "| 2 | 1 | ") {
		t.Errorf("the summary is %q", summary)
	}
}

// TestTwice checks that two uses in one job do not disturb each other, and that openai/codex-action finds the later
// one.
func TestTwice(t *testing.T) {
	s := newSetup(t)
	home := filepath.Join(s.dir, ".codex")
	found := filepath.Join(home, "7.json")
	if err := os.MkdirAll(home, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(found, []byte(`{"port":1,"pid":1}`), 0o444); err != nil { // of an earlier attempt
		t.Fatal(err)
	}
	if err := os.Chown(home, runner, runner); err != nil {
		t.Fatal(err)
	}
	first := s.begin(s.with("codex-home", home))
	second := s.begin(s.with("codex-home", home, "max-requests", "1"))
	third := s.begin(s.with())
	if first["port"] == second["port"] || first["directory"] == second["directory"] || first["codex-home"] != home {
		t.Errorf("the outputs are %q and %q", first, second)
	}
	want, _ := os.ReadFile(second["server-info"])
	if got, err := os.ReadFile(found); err != nil || !bytes.Equal(got, want) || len(want) == 0 {
		t.Errorf("openai/codex-action finds %q, want %q: %v", got, want, err)
	}
	for _, out := range []map[string]string{first, second, third} {
		s.wantCall(runner, out["port"], "200")
	}
	proctest.Eventually(t, "the end of the second proxy by its limit", func() bool { return s.call(runner, second["port"]) == "000" })
	if text, err := os.ReadFile(found); err == nil {
		t.Errorf("openai/codex-action finds a proxy that has ended: %q", text)
	}
	s.end(first)
	s.end(second)
	if files, err := os.ReadDir(home); err != nil || len(files) > 0 {
		t.Errorf("%s has %v: %v", home, files, err)
	}
	s.wantCall(runner, third["port"], "200")
	s.end(third)
	s.end(third) // does no harm
}

// TestErrors checks that errors are shown beside the step.
func TestErrors(t *testing.T) {
	s := newSetup(t)
	s.fails(s.with("openai-api-key", ""), nil, "openai-api-key is empty")
	s.fails(s.with("openai-api-key", "two words"), nil, "the proxy did not start", "API key")
	s.fails(s.with("callers", " "), nil, "callers is empty")
	s.fails(s.with("callers", "nosuchuser"), nil, "the proxy did not start", "nosuchuser")
	s.fails(s.with("max-requests", "5%"), nil, "--max-requests", "5%25")
	s.fails(s.with("flags", "--bogus"), nil, "--bogus")
	s.fails(s.with("binary", ""), nil, "binary, npm and release")
	s.fails(s.with("npm", "x"), nil, "binary, npm and release")
	s.fails(s.with("binary", "/nowhere"), nil, "/nowhere")
	s.fails(s.with("identity-provider-id", "idp"), nil, "not both")
	oidc := s.with("openai-api-key", "", "identity-provider-id", "idp_1", "service-account-id", "sa_1", "upstream-url", "", "flags", "--oidc-allow-host 127.0.0.1")
	s.fails(oidc, nil, "id-token: write")
	s.fails(oidc, []string{"ACTIONS_ID_TOKEN_REQUEST_TOKEN=t0ken", "ACTIONS_ID_TOKEN_REQUEST_URL=https://127.0.0.1:1/?a=b"}, "the proxy did not start", "127.0.0.1:1")
	if n := len(s.up.Requests()); n > 0 {
		t.Errorf("%d requests went up", n)
	}
	if _, printed, err := s.use(s.stop, map[string]string{"directory": ""}); err != nil || !strings.Contains(printed, "no proxy was started") {
		t.Errorf("the stop step after such a start: %v", err)
	}
}

// TestRelease checks that an archive is used if it has the expected hash.
func TestRelease(t *testing.T) {
	s := newSetup(t, "curl")
	dir := newDir(t, 0)
	archive := filepath.Join(dir, "a.tar.gz")
	if out, err := exec.Command("tar", "-C", filepath.Dir(filepath.Dir(s.program)), "-czf", archive, filepath.Base(filepath.Dir(s.program))+"/responses-api-proxy").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(text))
	release := func(sum string) map[string]string {
		return s.with("binary", "", "release", "file://"+archive, "sha256", sum)
	}
	s.fails(release(""), nil, "SHA256SUMS")
	s.fails(release(strings.Repeat("0", 64)), nil, "another SHA-256", sum)
	s.fails(s.with("binary", "", "release", "file:///nowhere", "sha256", sum), nil, "cannot download")
	out := s.begin(release(sum))
	s.wantCall(runner, out["port"], "200")
}

// TestNPM checks that the program of a package for this system is run without Node in between.
func TestNPM(t *testing.T) {
	s := newSetup(t, "env", "node", "npm", "sh")
	pkg := filepath.Join(newDir(t, 0), "package")
	name := "@responses-api-proxy/linux-" + map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	text := fmt.Sprintf(`{"name":%q,"version":"0.0.1","scripts":{"install":"exit 1"}}`, name)
	if err := os.Mkdir(pkg, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pkg, "package.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", `install -m 755 "$0" "$1" && tar -C "$1/.." -czf "$1.tgz" package`, s.program, pkg).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out := s.begin(s.with("binary", "", "npm", pkg+".tgz"))
	s.wantCall(runner, out["port"], "200")
	if path, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.pid(out))); !strings.HasSuffix(path, name+"/responses-api-proxy") {
		t.Errorf("%s runs", path)
	}
}

// published are the steps of openai/codex-action around its proxy, from its action.yml.
var published = &action{outputs: map[string]string{"port": "${{ steps.read.outputs.port }}"}, steps: []step{
	{id: "check", run: `if [ -s "$SERVER_INFO_FILE" ]; then echo "server_info_file_exists=true" >> "$GITHUB_OUTPUT"; fi`},
	{id: "start", env: map[string]string{"FOUND": "${{ steps.check.outputs.server_info_file_exists }}"}, run: `
[ "$FOUND" != true ] || exit 0 # its if:
args=(codex-responses-api-proxy --http-shutdown --server-info "$SERVER_INFO_FILE")
if [ -n "$UPSTREAM_URL" ]; then args+=(--upstream-url "$UPSTREAM_URL"); fi
(
  printenv PROXY_API_KEY | env -u PROXY_API_KEY "${args[@]}"
) >/dev/null 2>&1 & # the action redirects nothing, and so holds the step's output`},
	{id: "wait", run: `
for _ in {1..10}; do
  if [ -s "$SERVER_INFO_FILE" ]; then break; fi
  sleep 1
done
[ -s "$SERVER_INFO_FILE" ]`},
	{id: "read", run: `
port=$(node -e 'const {port} = JSON.parse(require("fs").readFileSync(process.env.SERVER_INFO_FILE, "utf8")); if (!Number.isInteger(port)) throw port; console.log(port)')
echo "port=$port" >> "$GITHUB_OUTPUT"`},
}}

// TestPublishedSteps checks that openai/codex-action uses a proxy that runs, and starts ours by the name of its own.
func TestPublishedSteps(t *testing.T) {
	s := newSetup(t, "curl", "env", "node", "printenv")
	started := s.begin(s.with("codex-home", filepath.Join(s.dir, ".codex")))
	port := s.published(filepath.Join(s.dir, ".codex", "7.json"))
	if port != started["port"] {
		t.Errorf("the action uses port %s, want %s", port, started["port"])
	}
	s.shutdown(port)
	s.end(started)

	bin := newDir(t, 0)
	if err := os.Symlink(s.program, filepath.Join(bin, "codex-responses-api-proxy")); err != nil {
		t.Fatal(err)
	}
	s.env[0] += ":" + bin
	s.shutdown(s.published(filepath.Join(s.dir, "own.json"), "PROXY_API_KEY="+key, "UPSTREAM_URL="+s.up.URL()))
}

// published runs the published steps, and returns the port that they find.
func (s *setup) published(info string, env ...string) string {
	s.Helper()
	outputs, _, err := s.use(published, nil, append(env, "SERVER_INFO_FILE="+info)...)
	if err != nil {
		s.Fatal(err)
	}
	s.wantCall(runner, outputs["port"], "200")
	return outputs["port"]
}

// shutdown stops a proxy as described in the action's README.
func (s *setup) shutdown(port string) {
	s.Helper()
	if !s.can(runner, "curl --fail --silent --show-error http://127.0.0.1:"+port+"/shutdown") {
		s.Error("GET /shutdown fails")
	}
	proctest.Eventually(s, "the end of the proxy on port "+port, func() bool { return s.call(runner, port) == "000" })
}
