//go:build unix && clients

package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

const key = "sk-made-up-0123456789abcdefghijklmnopqrstuvwxyz"

var (
	proxy  = os.Getenv("CLIENTS_PROXY")  // the program
	prefix = os.Getenv("CLIENTS_PREFIX") // where npm has installed the clients
)

// stack is a proxy before a fake upstream, and a home for a client.
type stack struct {
	*testing.T
	up    *openaitest.Server
	proxy *launch.Proxy
	dir   string
	audit string
}

// installed returns the path of a program that npm has installed.
func installed(name string) string { return filepath.Join(prefix, "node_modules", ".bin", name) }

func start(t *testing.T, path string, flags ...string) *stack {
	t.Helper()
	s := &stack{T: t, dir: t.TempDir()}
	up, err := openaitest.Start(openaitest.Options{Key: key, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	info := filepath.Join(s.dir, "info.json")
	s.up, s.audit = up, filepath.Join(s.dir, "audit.jsonl")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.Command(proxy, append([]string{"--upstream-url", up.URL(), "--server-info", info, "--audit", s.audit}, flags...)...)
	if s.proxy, err = launch.Start(ctx, cmd, []byte(key), info, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.proxy.Close)
	return s
}

func (s *stack) base() string { return fmt.Sprintf("http://127.0.0.1:%d", s.proxy.Port) }

// run runs a client in a directory of its own, without this process's environment, and returns what it prints.
func (s *stack) run(env []string, args ...string) (stdout string, failed bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = s.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "CODEX_HOME=" + s.dir}, env...)
	var out, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errors
	launch.Group(cmd)
	err := cmd.Run()
	s.Logf("%s ends with %v\n%s\n%s", args[0], err, out.String(), errors.String())
	return out.String(), err != nil
}

// sent returns the requests that reached the upstream, and fails for what a client must not have brought there.
func (s *stack) sent() (lines []string) {
	s.Helper()
	for _, r := range s.up.Requests() {
		lines = append(lines, r.Method+" "+r.Target)
		if got := r.Credentials(); len(got) != 1 || strings.TrimPrefix(got[0], "Bearer ") != key {
			s.Errorf("%s %s has the credentials %q", r.Method, r.Target, got)
		}
	}
	if faults := s.up.Faults(); len(faults) > 0 {
		s.Errorf("the upstream saw faults: %q", faults)
	}
	s.Logf("the upstream saw %q; the log: %s", lines, s.proxy.Output)
	return lines
}

// record is a line of the audit log.
type record struct {
	Route  string `json:"route"`
	Status int    `json:"status"`
	Model  string `json:"model"`
	Input  int64  `json:"input_tokens"`
	Output int64  `json:"output_tokens"`
}

// recorded returns the first record of a route.
func (s *stack) recorded(route string) (r record) {
	s.Helper()
	proctest.Eventually(s, "a record of "+route, func() bool {
		text, _ := os.ReadFile(s.audit)
		for line := range strings.Lines(string(text)) {
			r = record{}
			if json.Unmarshal([]byte(line), &r) == nil && r.Route == route {
				return true
			}
		}
		return false
	})
	return r
}

var claudeEnv = []string{"ANTHROPIC_API_KEY=none", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1"}

// TestClaudeCode checks that a turn of Claude Code works, and is charged the usage that the API reports.
func TestClaudeCode(t *testing.T) {
	s := start(t, "/v1/messages", "--allow-route", "messages", "--auth-header", "x-api-key", "--allow-model", "claude-*")
	out, failed := s.run(append(claudeEnv, "ANTHROPIC_BASE_URL="+s.base()), installed("claude"), "-p", "Say hello")
	if failed || !strings.Contains(out, "quick brown fox") {
		t.Errorf("it prints %q", out)
	}
	if !slices.Contains(s.sent(), "POST /v1/messages?beta=true") {
		t.Error("no message was asked for as Claude Code does")
	}
	if r := s.recorded("messages"); r.Status != 200 || !strings.HasPrefix(r.Model, "claude-") || r.Input < 1000 || r.Output != 10 {
		t.Errorf("recorded: %+v", r)
	}
}

// TestClaudeCodeBudget checks that Claude Code shows the refusal once the budget is spent.
func TestClaudeCodeBudget(t *testing.T) {
	s := start(t, "/v1/messages", "--allow-route", "messages", "--auth-header", "x-api-key", "--max-tokens-per-user", "100")
	env := append(slices.Clip(claudeEnv), "ANTHROPIC_BASE_URL="+s.base(), "CLAUDE_CODE_MAX_RETRIES=0")
	if out, failed := s.run(env, installed("claude"), "-p", "Say hello"); failed {
		t.Errorf("it prints %q", out)
	}
	if out, failed := s.run(env, installed("claude"), "-p", "Say hello"); !failed || !strings.Contains(out, "has spent its budget") {
		t.Errorf("it prints %q", out)
	}
	s.sent()
}

// TestModelsRefused checks that clients show the reason when a model is not allowed.
func TestModelsRefused(t *testing.T) {
	s := start(t, "/v1/messages", "--allow-route", "messages", "--auth-header", "x-api-key", "--allow-model", "claude-small")
	out, failed := s.run(append(slices.Clip(claudeEnv), "ANTHROPIC_BASE_URL="+s.base(), "CLAUDE_CODE_MAX_RETRIES=0"), installed("claude"), "-p", "Say hello")
	if !failed || !strings.Contains(out, "is not allowed here, but claude-small") || len(s.sent()) > 0 {
		t.Errorf("it prints %q", out)
	}
}

// configure writes a configuration for Codex, in which BASE stands for the proxy's address.
func (s *stack) configure(config string) {
	s.Helper()
	config = strings.ReplaceAll("check_for_update_on_startup = false\n"+config, "BASE", s.base()) + "\n[analytics]\nenabled = false\n"
	if err := os.WriteFile(filepath.Join(s.dir, "config.toml"), []byte(config), 0o600); err != nil {
		s.Fatal(err)
	}
}

// codex runs Codex with a configuration.
func (s *stack) codex(config string, env ...string) {
	s.Helper()
	s.configure(config)
	out, failed := s.run(env, installed("codex"), "exec", "--skip-git-repo-check", "Say hello")
	if failed || !strings.Contains(out, "the the") {
		s.Errorf("it prints %q", out)
	}
}

const provider = `
model_provider = "proxy"
web_search = "live"

[model_providers.proxy]
name = "proxy"
base_url = "BASE/v1"
wire_api = "responses"
`

func TestCodex(t *testing.T) {
	s := start(t, "", "--allow-model", "gpt-6*")
	s.codex(provider)
	if got, want := s.sent(), []string{"POST /v1/responses"}; !slices.Equal(got, want) {
		t.Errorf("it sends %q, want %q", got, want)
	}
}

// TestCodexBudget checks that Codex shows the refusal once the budget is spent, and when to try again.
func TestCodexBudget(t *testing.T) {
	s := start(t, "", "--max-tokens-per-user", "1", "--budget-period", "month")
	s.codex(provider)
	out, failed := s.run(nil, installed("codex"), "exec", "--skip-git-repo-check", "--json", "Say hello")
	refusal := regexp.MustCompile(`hit your usage limit\. Uid [0-9]+ has spent its budget of tokens .*, which resets at .*-01T00:00:00Z\. .*, or try again at `)
	if !failed || !refusal.MatchString(out) {
		t.Errorf("it prints %q", out)
	}
	if n := len(s.sent()); n != 1 {
		t.Errorf("it sends %d requests, want 1", n)
	}
}

// TestCodexBuiltIn tries a WebSocket, and falls back.
func TestCodexBuiltIn(t *testing.T) {
	s := start(t, "")
	s.codex(`openai_base_url = "BASE/v1"`, "CODEX_API_KEY=none")
	if got, want := s.sent(), []string{"POST /v1/responses"}; !slices.Equal(got, want) {
		t.Errorf("it sends %q, want %q", got, want)
	}
}

// TestCodexWebSocketMetered checks that its WebSocket is charged what the responses inside it report.
func TestCodexWebSocketMetered(t *testing.T) {
	s := start(t, "", "--allow-route", "websocket", "--max-tokens-per-user", "1000000")
	s.codex(provider + `supports_websockets = true`)
	if got, want := s.sent(), []string{"GET /v1/responses"}; !slices.Equal(got, want) {
		t.Errorf("it sends %q, want %q", got, want)
	}
	if r := s.recorded("websocket"); r.Status != 101 || r.Model == "" || r.Input < 1000 || r.Output == 0 {
		t.Errorf("recorded: %+v", r)
	}
}

// TestCodexWebSocketBudget checks that Codex shows the refusal once the budget is spent, here by its first response.
func TestCodexWebSocketBudget(t *testing.T) {
	s := start(t, "", "--allow-route", "websocket", "--max-tokens-per-user", "100")
	s.configure(provider + `supports_websockets = true`)
	output, failed := s.run(nil, installed("codex"), "exec", "--skip-git-repo-check", "--json", "Say hello")
	if !failed || !strings.Contains(output, "hit your usage limit. Uid ") || !strings.Contains(output, "has spent its budget of tokens (") {
		t.Errorf("it prints %q", output)
	}
	if got, want := s.sent(), []string{"GET /v1/responses"}; !slices.Equal(got, want) {
		t.Errorf("it sends %q, want %q", got, want)
	}
}

// TestCodexCatalogue checks that Codex requests the models first, and uses the one that is offered.
func TestCodexCatalogue(t *testing.T) {
	s := start(t, "", "--allow-route", "models")
	s.codex(provider+`env_key = "PROXY_KEY"`+"\n"+`model_catalog_url = "BASE/v1/models"`, "PROXY_KEY=none")
	if sent := s.sent(); len(sent) != 2 || !strings.HasPrefix(sent[0], "GET /v1/models?client_version=") {
		t.Fatalf("it sends %q", sent)
	}
	if r := s.recorded("responses"); r.Model != "gpt-5" {
		t.Errorf("recorded: %+v", r)
	}
}

// TestCodexSearch lets the default model search.
func TestCodexSearch(t *testing.T) {
	s := start(t, "", "--allow-route", "search", "--allow-model", "gpt-6*")
	s.up.Script("search")
	s.codex(provider + `supports_standalone_web_search = true`)
	if got, want := s.sent(), []string{"POST /v1/responses", "POST /v1/alpha/search", "POST /v1/responses"}; !slices.Equal(got, want) {
		t.Fatalf("it sends %q, want %q", got, want)
	}
	body, err := s.up.Requests()[2].Body(t.Context())
	if err != nil || !bytes.Contains(body, []byte("the quick brown fox jumps")) {
		t.Errorf("the model does not get what was found: %v", err)
	}
}

// TestLimits checks that an SDK can read what is left of a limit.
func TestLimits(t *testing.T) {
	s := start(t, "", "--max-tokens-per-user", "10", "--budget-period", "month")
	out, failed := s.run([]string{"BASE=" + s.base() + "/v1"}, "node", filepath.Join(prefix, "limits.mjs"))
	if failed || !regexp.MustCompile(`^429 budget_exhausted 10 0 [0-9hm]+s\n$`).MatchString(out) {
		t.Errorf("it prints %q", out)
	}
}

// TestSDKs requests a response and a stream by each SDK.
func TestSDKs(t *testing.T) {
	for name, command := range map[string][]string{
		"openai-node":   {"node", filepath.Join(prefix, "openai-node.mjs")},
		"openai-go":     {filepath.Join(prefix, "openai-go.bin")},
		"Vercel AI SDK": {"node", filepath.Join(prefix, "ai-sdk.mjs")},
		"Agents SDK":    {"node", filepath.Join(prefix, "agents.mjs")},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "", "--allow-model", "gpt-5")
			out, failed := s.run([]string{"BASE=" + s.base() + "/v1"}, command...)
			if failed || !strings.Contains(out, "the quick brown fox") || !strings.Contains(out, "the the") {
				t.Errorf("it prints %q", out)
			}
			if got, want := s.sent(), []string{"POST /v1/responses", "POST /v1/responses"}; !slices.Equal(got, want) {
				t.Errorf("it sends %q, want %q", got, want)
			}
		})
	}
}
