package metrics

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// sample is one line of a scrape.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// scrape is what the strict parser below has read.
type scrape struct {
	samples []sample
	kinds   map[string]string // by family
	help    map[string]string
	series  map[string]float64 // by the line without its number
}

var (
	nameRule  = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`)
	labelRule = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"`)
	suffixes  = regexp.MustCompile(`_(bucket|sum|count)$`)
	unquote   = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n")
)

// parseText reads the text format 0.0.4 more strictly than Prometheus does: every
// family has one HELP and one TYPE, in that order, before its first sample, and
// its samples stand together.
func parseText(text string) (*scrape, error) {
	s := &scrape{kinds: map[string]string{}, help: map[string]string{}, series: map[string]float64{}}
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("no line feed at the end")
	}
	family := ""
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		var err error
		if family, err = s.line(family, line); err != nil {
			return nil, fmt.Errorf("line %d %q: %w", i+1, line, err)
		}
	}
	return s, nil
}

func (s *scrape) line(family, line string) (string, error) {
	if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
		name, help, ok := strings.Cut(rest, " ")
		if _, twice := s.help[name]; twice || !ok || nameRule.FindString(name) != name {
			return "", fmt.Errorf("bad HELP")
		}
		s.help[name] = strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(help)
		return name, nil
	}
	if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
		name, kind, _ := strings.Cut(rest, " ")
		if _, twice := s.kinds[name]; twice || name != family || !regexp.MustCompile(`^(counter|gauge|histogram)$`).MatchString(kind) {
			return "", fmt.Errorf("bad TYPE")
		}
		s.kinds[name] = kind
		return family, nil
	}
	return family, s.sample(family, line)
}

func (s *scrape) sample(family, line string) error {
	one := sample{name: nameRule.FindString(line), labels: map[string]string{}}
	rest := line[len(one.name):]
	of := one.name
	if s.kinds[family] == "histogram" {
		of = suffixes.ReplaceAllString(of, "")
	}
	if of != family || s.kinds[family] == "" {
		return fmt.Errorf("outside its family")
	}
	for sep := "{"; strings.HasPrefix(rest, sep); sep = "," {
		m := labelRule.FindStringSubmatch(rest[1:])
		if m == nil {
			return fmt.Errorf("bad label")
		}
		if _, twice := one.labels[m[1]]; twice {
			return fmt.Errorf("label twice")
		}
		one.labels[m[1]] = unquote.Replace(m[2])
		rest = rest[1+len(m[0]):]
	}
	if len(one.labels) > 0 {
		if rest == "" || rest[0] != '}' {
			return fmt.Errorf("unclosed labels")
		}
		rest = rest[1:]
	}
	key := line[:len(line)-len(rest)]
	number, ok := strings.CutPrefix(rest, " ")
	var err error
	if one.value, err = strconv.ParseFloat(number, 64); err != nil || !ok {
		return fmt.Errorf("bad number")
	}
	if _, twice := s.series[key]; twice {
		return fmt.Errorf("series twice")
	}
	s.series[key] = one.value
	s.samples = append(s.samples, one)
	return nil
}

// histograms checks what must hold in every histogram: buckets in order, that
// never fall, up to +Inf, which is the count.
func (s *scrape) histograms() error {
	for name, kind := range s.kinds {
		if kind != "histogram" {
			continue
		}
		last, end := 0.0, math.Inf(-1)
		for _, one := range s.samples {
			if one.name != name+"_bucket" {
				continue
			}
			le, err := strconv.ParseFloat(one.labels["le"], 64)
			if err != nil || le <= end || one.value < last {
				return fmt.Errorf("%s: bucket %q with %v after %v with %v", name, one.labels["le"], one.value, end, last)
			}
			last, end = one.value, le
		}
		if sum, ok := s.series[name+"_sum"]; !ok || !math.IsInf(end, 1) || s.series[name+"_count"] != last || sum < 0 {
			return fmt.Errorf("%s ends with %v at %v, count %v, sum %v", name, last, end, s.series[name+"_count"], sum)
		}
	}
	return nil
}

// read scrapes m and checks what must always hold.
func read(t testing.TB, m *Metrics) *scrape {
	t.Helper()
	text := m.Text()
	s, err := parseText(string(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if err := s.histograms(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheParserIsStrict(t *testing.T) {
	const head = "# HELP a b\n# TYPE a counter\n"
	for _, text := range []string{
		"", "a 1", "a 1\n", "# HELP a b\na 1\n", "# TYPE a counter\n", head + "a 1", head + "b 1\n", head + "a\n", head + "a x\n", head + "a{} 1\n",
		head + "a{b=\"c\"} 1\na{b=\"c\"} 2\n", head + "a{b=\"c} 1\n", head + "a{b=\"c\",} 1\n", head + "a{b=\"\\x\"} 1\n", head + "a{b=\"\"\"} 1\n", head + "a_sum 1\n", head + "a 1\n\n", head + "a{b=\"c\" 1\n",
		head + "a 1\n" + head, "# HELP a b\n# TYPE a int\n",
	} {
		if _, err := parseText(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if s, err := parseText(head + "a{b=\"c\\n\\\\\\\"\",d=\"\"} +Inf\na 2\n"); err != nil || s.samples[0].labels["b"] != "c\n\\\"" || s.series["a"] != 2 {
		t.Error(s, err)
	}
	const h = "# HELP h h\n# TYPE h histogram\n"
	for _, text := range []string{
		"h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
		"h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 1\n",
		"h_bucket{le=\"2\"} 1\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
		"h_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
	} {
		if s, err := parseText(h + text); err != nil || s.histograms() == nil {
			t.Errorf("%q is taken (%v)", text, err)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 1: "1", -1: "-1", 0.005: "0.005", 1800: "1800", math.Inf(1): "+Inf", math.Inf(-1): "-Inf"} {
		if got := float(n); got != want {
			t.Errorf("%v is written %s, want %s", n, got, want)
		}
	}
	if got := float(math.NaN()); got != "NaN" {
		t.Error(got)
	}
}

// FuzzEscape: whatever a label's value is, it reads back as it was,
// stays on its line, and begins no series of its own.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b", `a\`, `\n`, "a\nb", "x\"} 1\nevil 2\n", "\r\t\x00", "\xff\xfe", "\u2028é", `\\"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var p page
		p.family("a_total", "counter", "help")
		p.sample("", 1, "l", s, "m", s)
		got, err := parseText(string(p.text))
		if err != nil {
			t.Fatalf("%v in %q", err, p.text)
		}
		want := strings.ToValidUTF8(s, "\uFFFD")
		if len(got.samples) != 1 || got.samples[0].labels["l"] != want || got.samples[0].labels["m"] != want {
			t.Fatalf("%q reads back as %+v", s, got)
		}
		if strings.Count(string(p.text), "\n") != 3 {
			t.Fatalf("%q has broken its line: %q", s, p.text)
		}
	})
}
