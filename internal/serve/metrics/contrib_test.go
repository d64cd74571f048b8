package metrics

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	dashboardFile = "../../../contrib/grafana/dashboard.json"
	alertsFile    = "../../../contrib/prometheus/alerts.yml"
)

func file(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// dashboard is the part of Grafana's model that the tests need.
type dashboard struct {
	SchemaVersion int
	Title, UID    string
	Templating    struct {
		List []struct{ Name, Type, Query any }
	}
	Panels []struct {
		ID          int
		Type, Title string
		GridPos     struct{ X, Y, W, H int }
		Datasource  struct{ Type, UID string }
		Targets     []struct {
			RefID, Expr string
			Datasource  struct{ Type, UID string }
		}
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(file(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.SchemaVersion < 39 || d.Title == "" || d.UID == "" || d.Templating.List[0].Type != "datasource" || d.Templating.List[0].Name != "datasource" {
		t.Errorf("schema %d, title %q, uid %q, variables %v", d.SchemaVersion, d.Title, d.UID, d.Templating.List)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" || p.Datasource.Type != "prometheus" {
			t.Errorf("panel %d %q: twice %t, %d targets, data source %v", p.ID, p.Title, ids[p.ID], len(p.Targets), p.Datasource)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" || target.RefID == "" || target.Expr == "" {
				t.Errorf("%q: %+v", p.Title, target)
			}
		}
		if p.GridPos.X < 0 || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W*p.GridPos.H == 0 {
			t.Errorf("%q stands outside", p.Title)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if taken[at] != "" {
					t.Fatalf("%q covers %q", p.Title, taken[at])
				}
				taken[at] = p.Title
			}
		}
	}
}

// full returns a scrape of a Metrics with every value and code.
func full(t *testing.T) *scrape {
	cfg := example()
	cfg.Codes = nil
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| \\d+ \\|").FindAllStringSubmatch(file(t, "../../../docs/errors.md"), -1) {
		cfg.Codes = append(cfg.Codes, m[1])
	}
	return read(t, New(cfg))
}

var (
	selector = regexp.MustCompile(`\b((?:responses_api_proxy|process|go)_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`)
)

// known checks that every series in text exists, with its labels and, for codes and other closed sets, with its values.
func known(t *testing.T, s *scrape, where, text string) (count int) {
	t.Helper()
	for _, m := range selector.FindAllStringSubmatch(text, -1) {
		count++
		values := map[string][]string{"job": nil, "instance": nil}
		there := false
		for _, one := range s.samples {
			if one.name == m[1] {
				there = true
				for l, v := range one.labels {
					values[l] = append(values[l], v)
				}
			}
		}
		if !there {
			t.Errorf("%s: there is no %s", where, m[1])
		}
		for _, want := range matcher.FindAllStringSubmatch(m[2], -1) {
			have, ok := values[want[1]]
			if !ok {
				t.Errorf("%s: %s has no label %s", where, m[1], want[1])
			}
			for _, v := range strings.Split(want[3], "|") {
				if have != nil && !slices.Contains(have, v) {
					t.Errorf("%s: %s has no %s %q", where, m[1], want[1], v)
				}
			}
		}
	}
	return count
}

func TestWhatContribAsksForExists(t *testing.T) {
	s := full(t)
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			if known(t, s, p.Title, target.Expr) == 0 {
				t.Errorf("%q asks for nothing of ours: %s", p.Title, target.Expr)
			}
		}
	}
	if n := known(t, s, dashboardFile, file(t, dashboardFile)); n < 30 {
		t.Errorf("the dashboard names %d series", n)
	}
	if n := known(t, s, alertsFile, file(t, alertsFile)); n < 7 {
		t.Errorf("the alerts name %d series", n)
	}
}

// TestTheDashboardLeavesNothingOut: every metric that only this program has is on the dashboard.
func TestTheDashboardLeavesNothingOut(t *testing.T) {
	text := file(t, dashboardFile)
	for family := range full(t).kinds {
		if strings.HasPrefix(family, prefix) && !strings.Contains(text, family) {
			t.Errorf("%s is not on the dashboard", family)
		}
	}
}

// promtool runs Prometheus's own check. Without it the test is skipped, and fails in CI.
func promtool(t *testing.T, input string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not installed; on Debian it is in the package prometheus")
		}
		t.Skip("NOT TESTED: promtool is not installed; on Debian it is in the package prometheus")
	}
	c := exec.CommandContext(t.Context(), path, args...)
	c.Stdin = strings.NewReader(input)
	if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "FAILED") {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	} else {
		t.Logf("%s", out)
	}
}

// TestPromtoolMetrics: a real scrape, read over a socket, is well-formed and
// keeps Prometheus's rules for names.
func TestPromtoolMetrics(t *testing.T) {
	m := New(example())
	m.End(success())
	at := start(t, "127.0.0.1:0", m, well)
	answer, err := http.Get("http://" + at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got := answer.Header.Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Error(got)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseText(string(body)); err != nil {
		t.Fatal(err)
	}
	promtool(t, string(body), "check", "metrics")
}

func TestPromtoolConfig(t *testing.T) {
	promtool(t, "", "check", "config", "../../../contrib/prometheus/prometheus.yml")
}

func TestPromtoolRules(t *testing.T) { promtool(t, "", "check", "rules", alertsFile) }

// TestPromtoolAlerts: each alert fires when it should, and not otherwise.
func TestPromtoolAlerts(t *testing.T) {
	promtool(t, "", "test", "rules", "testdata/alerts_test.yml")
}
