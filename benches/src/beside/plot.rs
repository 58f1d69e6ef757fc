//! Figures as pictures: percentile curves, and bars of how many a second.

use std::error::Error;
use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged};
use plotters::prelude::*;

use super::stage::{Figures, Line};
use super::table::Table;

type Drawn = Result<(), Box<dyn Error>>;

const SIZE: (u32, u32) = (860, 420);

/// Who is always of the same colour: by place in [`crate::peers::NAMES`].
const COLOURS: [RGBColor; 10] = [
    RGBColor(0x1b, 0x1b, 0x1b),
    RGBColor(0x77, 0x77, 0x77),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0x7f, 0xc9, 0xa6),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xbb, 0xbb, 0xbb),
];

/// Draws what a table says is to be drawn; says how the page shows it, which is in the
/// directory above.
///
/// # Errors
///
/// The file system's.
pub fn draw(table: &Table, dir: &Path) -> Result<String, Box<dyn Error>> {
    let mut shown = String::new();
    let mut show = |file: &str, title: &str| {
        let dir = dir.file_name().unwrap_or_default().to_string_lossy();
        shown += &format!("\n![{title}]({dir}/{file})\n");
    };
    for column in &table.curves {
        let (name, line) = &table.columns[*column];
        let title = format!("{}: {name}", table.caption);
        let file = format!(
            "{}-{}.svg",
            table.name,
            name.to_lowercase()
                .replace([' ', '/'], "-")
                .replace(',', "")
        );
        curves(&dir.join(&file), &title, line)?;
        show(&file, &title);
    }
    if table.has_bars {
        let title = format!("{}: how many a second", table.caption);
        let file = format!("{}.svg", table.name);
        bars(&dir.join(&file), &title, &table.columns)?;
        show(&file, &title);
    }
    Ok(shown)
}

fn measured(line: &Line) -> impl Iterator<Item = (usize, &'static str, &Figures)> {
    let places = line.0.iter().enumerate();
    places.filter_map(|(place, (peer, figures))| Some((place, *peer, figures.as_ref().ok()?)))
}

/// How long single ones took: each of so many at most as long as this.
fn curves(file: &Path, title: &str, line: &Line) -> Drawn {
    let most = measured(line).map(|(_, _, figures)| figures.latencies.max());
    let least = measured(line).map(|(_, _, figures)| figures.latencies.value_at_quantile(0.0));
    let times = (least.min().unwrap_or(1) as f64 / 2.0)..(most.max().unwrap_or(1) as f64 * 2.0);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..1e4_f64).log_scale(), times.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd))
        .x_labels(5)
        .y_labels(8)
        .x_desc("percentile")
        .x_label_formatter(&|one_in| percentile(*one_in))
        .y_label_formatter(&|ns| time(*ns))
        .draw()?;
    for (place, peer, figures) in measured(line) {
        // Ten points for each factor of ten.
        let points = (0..=40).map(|tenth| {
            let one_in = 10_f64.powf(f64::from(tenth) / 10.0);
            let at_most = figures.latencies.value_at_quantile(1.0 - 1.0 / one_in);
            (one_in, at_most as f64)
        });
        let style = COLOURS[place].stroke_width(if place == 0 { 3 } else { 2 });
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(peer)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
    area.present()?;
    Ok(())
}

/// How many a second, column by column.
fn bars(file: &Path, title: &str, columns: &[(&'static str, Line)]) -> Drawn {
    let rate = |figures: &Figures| 1e9 / figures.median();
    let rates = columns.iter().flat_map(|(_, line)| measured(line));
    let rates: Vec<f64> = rates.map(|(_, _, figures)| rate(figures)).collect();
    let least = rates.iter().copied().fold(f64::MAX, f64::min) / 2.0;
    let most = rates.iter().copied().fold(1.0, f64::max) * 2.0;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(64)
        // With room for the legend.
        .build_cartesian_2d(0.0..columns.len() as f64 * 1.25, (least..most).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd))
        .x_labels(0)
        .y_labels(8)
        .y_desc("a second")
        .y_label_formatter(&|rate| many(*rate))
        .draw()?;
    let mut named = Vec::new();
    for (column, (name, line)) in columns.iter().enumerate() {
        let peers: Vec<_> = measured(line).collect();
        let width = 0.8 / peers.len().max(1) as f64;
        for (nth, (place, peer, figures)) in peers.into_iter().enumerate() {
            let left = column as f64 + 0.1 + nth as f64 * width;
            let corners = [(left, least), (left + width * 0.9, rate(figures))];
            let bar = Rectangle::new(corners, COLOURS[place].filled());
            let series = chart.draw_series([bar])?;
            if !named.contains(&place) {
                named.push(place);
                let style = COLOURS[place].filled();
                series
                    .label(peer)
                    .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 16, y + 5)], style));
            }
        }
        let below = chart.backend_coord(&(column as f64 + 0.5, least));
        let style = ("sans-serif", 14).into_text_style(&area);
        let name = Text::new(*name, (below.0 - 4 * name.len() as i32, below.1 + 8), style);
        area.draw(&name)?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)?;
    area.present()?;
    Ok(())
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Drawn
where
    X: Ranged + AsRangedCoord,
    Y: Ranged + AsRangedCoord,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(TRANSPARENT)
        .draw()?;
    Ok(())
}

/// Of which one in so many is longer.
fn percentile(one_in: f64) -> String {
    let percent = format!("{:.2}", 100.0 - 100.0 / one_in);
    percent
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.0} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.0} ms", ns / 1e6),
        ns => format!("{:.0} s", ns / 1e9),
    }
}

fn many(rate: f64) -> String {
    match rate {
        rate if rate < 1e3 => format!("{rate:.0}"),
        rate if rate < 1e6 => format!("{:.0} k", rate / 1e3),
        rate => format!("{:.0} M", rate / 1e6),
    }
}
